"""Bytes with a checksum for every block: written as they come, read by memory map, checked when touched."""

import mmap
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

BLOCK_BYTES = 1 << 15


class BlockChecksums:
    """CRC-32 of every block of 32 KiB of a stream; the last one may be shorter."""

    def __init__(self) -> None:
        self._done: list[int] = []
        self._open, self._filled = 0, 0

    def update(self, content: memoryview | bytes) -> None:
        """Adds bytes."""
        content = memoryview(content).cast("B")
        start = 0
        while start < len(content):
            piece = content[start : start + BLOCK_BYTES - self._filled]
            self._open = zlib.crc32(piece, self._open)
            self._filled += len(piece)
            start += len(piece)
            if self._filled == BLOCK_BYTES:
                self._done.append(self._open)
                self._open, self._filled = 0, 0

    def values(self) -> np.ndarray:
        """The checksums so far, uint32."""
        return np.array([*self._done, self._open] if self._filled else self._done, np.uint32)


def write_checked(file: BinaryIO, content: memoryview | bytes, checksums: BlockChecksums) -> None:
    """Writes bytes to a file and adds them to its checksums."""
    file.write(content)
    checksums.update(content)


def map_file(path: Path) -> np.ndarray:
    """A file's bytes (uint8) by memory map, which stays readable on POSIX when the file's name is removed."""
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


class CheckedBytes:
    """Mapped bytes whose blocks are compared with their checksums when they are first asked for.

    Args:
        content: Bytes, uint8.
        checksums: One CRC-32 for each block of 32 KiB.
        name: What an error calls them.
    """

    def __init__(self, content: np.ndarray, checksums: np.ndarray, name: str) -> None:
        self._content, self._checksums, self._name = content, checksums, name
        self._known = np.zeros(len(checksums), bool)

    def trust(self) -> None:
        """Takes all blocks for checked."""
        self._known[:] = True

    def check_range(self, start: int, stop: int) -> None:
        """Checks the blocks of bytes start to stop.

        Raises:
            ValueError: If a block was altered.
        """
        if start < stop:
            self._check(np.arange(start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES + 1))

    def check_ranges(self, starts: np.ndarray, size: int) -> None:
        """Checks the blocks of the ranges of `size` bytes, at least 1, that begin at `starts` (k,).

        Raises:
            ValueError: If a block was altered.
        """
        first, last = starts // BLOCK_BYTES, (starts + size - 1) // BLOCK_BYTES
        steps = np.arange(size // BLOCK_BYTES + 2)
        self._check(np.unique(np.minimum(first[:, None] + steps, last[:, None])))

    def _check(self, blocks: np.ndarray) -> None:
        for block in blocks[~self._known[blocks]].tolist():
            start = block * BLOCK_BYTES
            if zlib.crc32(self._content[start : start + BLOCK_BYTES]) != self._checksums[block]:
                raise ValueError(
                    f"{self._name} was altered between bytes {start} and {start + BLOCK_BYTES} of its "
                    "values: copy or build the store again."
                )
            self._known[block] = True
