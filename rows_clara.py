"""Memories of a shard, packed: in RAM, in a safetensors file read by memory map, or some rows of either.

All of them have a length n, give memories (k, M, H) for a slice of step 1 or for indices (k,), and the
packed tensors for the same rows. Letters: n memories of a shard, k rows asked for, M memory tokens, H hidden
width.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .blocks_clara import BLOCK_BYTES, CheckedBytes, map_file
from .formats_clara import KINDS, Part, pack, parts_of, unpack
from .recompute_clara import Recompressor, TextMemory

CHECKSUMS = "checksums"
HEADER_BYTES = 512
HEADER_LIMIT = 100_000_000
ANNOUNCED_ROWS = 8


class PackedMemory:
    """Memories (n, M, H) in RAM, in one of the formats."""

    source: Recompressor | None = None

    def __init__(self, parts: tuple[Tensor, ...], dtype: str) -> None:
        self.dtype = dtype
        self._parts = parts

    @classmethod
    def joined(cls, memories: Iterable[Tensor], dtype: str) -> "PackedMemory":
        """Packs memories (k, M, H), one piece after another, so that RAM holds one unpacked piece."""
        packed = [pack(memory, dtype) for memory in memories]
        return cls(tuple(map(torch.cat, zip(*packed, strict=True))) if len(packed) > 1 else packed[0], dtype)

    def __len__(self) -> int:
        return len(self._parts[0])

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return unpack(self.packed(rows), self.dtype)

    def packed(self, rows: slice | Tensor) -> tuple[Tensor, ...]:
        """The tensors that are stored for some rows."""
        return tuple(part[rows] for part in self._parts)


class ChosenMemory:
    """The memories at some rows of others, in their order; nothing is copied."""

    def __init__(
        self, memory: "PackedMemory | MemoryFile | TextMemory | ChosenMemory", rows: np.ndarray
    ) -> None:
        self.dtype, self.source = memory.dtype, memory.source
        self._memory, self._rows = memory, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return self._memory[self._chosen(rows)]

    def packed(self, rows: slice | Tensor) -> tuple[Tensor, ...]:
        """The tensors that are stored for some rows."""
        return self._memory.packed(self._chosen(rows))

    def _chosen(self, rows: slice | Tensor) -> Tensor:
        return torch.from_numpy(self._rows[rows if isinstance(rows, slice) else rows.numpy()])


class MemoryFile:
    """Memories (n, M, H) in a safetensors file: only the rows asked for, and blocks around them, are read.

    Args:
        path: The file: the tensors of a format, then the checksums of the blocks of their bytes.
        shape: (n, M, H).
        dtype: The format.
        checked: Whether the whole file was compared with its checksum already.

    Raises:
        ValueError: If the header is not that of such a file.
    """

    source: Recompressor | None = None

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: str, checked: bool = False) -> None:
        self.dtype = dtype
        self._path, self._rows, self._shape = path, shape[0], tuple(shape[1:])
        self._offset = check_header(path, header_of(parts_of(dtype, self._shape), self._rows))
        self._open(checked)

    def _open(self, checked: bool) -> None:
        content = map_file(self._path)[self._offset :]
        self._arrays, self._starts, start = [], [], 0
        for part in parts_of(self.dtype, self._shape):
            stop = start + self._rows * part.row_bytes
            values = content[start:stop].view(KINDS[part.code][1])
            self._arrays.append(values.reshape(self._rows, *part.shape))
            self._starts.append(start)
            start = stop
        self._checked = CheckedBytes(content[:start], content[start:].view(np.uint32), str(self._path))
        if checked:
            self._checked.trust()

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return unpack(self.packed(rows), self.dtype)

    def packed(self, rows: slice | Tensor) -> tuple[Tensor, ...]:
        """The tensors that are stored for some rows.

        Raises:
            ValueError: If one of the blocks that hold them was altered.
        """
        chosen = rows if isinstance(rows, slice) else rows.numpy()
        parts = []
        for part, values, start in zip(
            parts_of(self.dtype, self._shape), self._arrays, self._starts, strict=True
        ):
            if isinstance(chosen, slice):
                first, stop, _ = chosen.indices(self._rows)
                self._checked.check_range(start + first * part.row_bytes, start + stop * part.row_bytes)
                copied = values[chosen].copy()
            else:
                self._announce(start + chosen * part.row_bytes, part.row_bytes)
                self._checked.check_ranges(start + chosen * part.row_bytes, part.row_bytes)
                copied = values[chosen]  # indices copy
            parts.append(torch.from_numpy(copied).view(KINDS[part.code][0]))
        return tuple(parts)

    def _announce(self, starts: np.ndarray, size: int) -> None:
        """Asks the system to read these bytes now, all at once, and not more around each of them."""
        if len(starts) < ANNOUNCED_ROWS or not hasattr(os, "posix_fadvise"):
            return
        with suppress(FileNotFoundError), self._path.open("rb") as file:  # a name may be gone, the map stays
            for start in (self._offset + starts).tolist():
                os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)

    def __getstate__(self) -> dict:
        kept = ("dtype", "_path", "_rows", "_shape", "_offset")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._open(False)


def header_of(parts: tuple[Part, ...], rows: int) -> dict[str, dict]:
    """The safetensors header of a memory file: its tensors end to end, the checksums last."""
    header, start = {}, 0
    for part in parts:
        stop = start + rows * part.row_bytes
        header[part.name] = {
            "dtype": part.code,
            "shape": [rows, *part.shape],
            "data_offsets": [start, stop],
        }
        start = stop
    blocks = -(-start // BLOCK_BYTES)
    header[CHECKSUMS] = {"dtype": "U32", "shape": [blocks], "data_offsets": [start, start + 4 * blocks]}
    return header


def check_header(path: Path, expected: dict[str, dict]) -> int:
    """Checks a safetensors header against what the file must hold; returns where the values start.

    Raises:
        ValueError: If the file is no safetensors file, holds other tensors or has another size.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(size - 8, HEADER_LIMIT):
            raise ValueError(f"{path} is not a safetensors file: its header claims {length} of {size} bytes.")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a safetensors file: its header is not JSON.") from error
    if header != expected:
        raise ValueError(
            f"{path} must hold `memory` as {expected}, got {header!r:.300}: copy or build the store again."
        )
    nbytes = 8 + length + expected[CHECKSUMS]["data_offsets"][1]
    if size != nbytes:
        raise ValueError(f"{path} has {size} bytes but its header needs {nbytes}: it was cut or altered.")
    return 8 + length
