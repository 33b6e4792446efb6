"""Where the rows of a version of a store lie, and whether its files can be read at all."""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

ADDRESS_BITS = 32
# The end of a Lance file: where three tables begin, how many buffers and columns there are, version, magic.
FOOTER, MAGIC = struct.Struct("<QQQIIHH4s"), b"LANC"
ENTRY = 16  # bytes of a buffer or a column in its table


class Places:
    """Where the rows of a version lie: from addresses of Lance (fragment and offset) to indices 0 to N - 1.

    Only fragments that lost rows need memory, 4 bytes for each row that is left.

    Args:
        dataset: The Lance dataset.
    """

    def __init__(self, dataset: Any) -> None:
        fragments = dataset.get_fragments()
        self._fragments = np.array([fragment.fragment_id for fragment in fragments], np.int64)
        counts = [fragment.count_rows() for fragment in fragments]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._kept: dict[int, np.ndarray] = {}
        for fragment in fragments:
            if fragment.num_deletions:
                found = dataset.scanner(columns=[], with_row_address=True, fragments=[fragment]).to_table()
                offsets = found["_rowaddr"].to_numpy() & ((1 << ADDRESS_BITS) - 1)
                self._kept[fragment.fragment_id] = offsets.astype(np.uint32)

    def indices(self, addresses: np.ndarray) -> np.ndarray:
        """Indices (n,) int64 of addresses (n,)."""
        addresses = addresses.astype(np.int64)
        numbers = np.searchsorted(self._fragments, addresses >> ADDRESS_BITS)
        offsets = addresses & ((1 << ADDRESS_BITS) - 1)
        for number, kept in self._kept.items():
            inside = self._fragments[numbers] == number
            offsets[inside] = np.searchsorted(kept, offsets[inside])
        return self._starts[numbers] + offsets

    def addresses(self, indices: np.ndarray) -> np.ndarray:
        """Addresses (n,) int64 of indices (n,)."""
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        offsets = indices - self._starts[numbers]
        for number, kept in self._kept.items():
            inside = self._fragments[numbers] == number
            offsets[inside] = kept[offsets[inside]]
        return (self._fragments[numbers] << ADDRESS_BITS) + offsets

    def kept(self, fragment: int) -> np.ndarray | None:
        """Offsets of the rows that a fragment still has, ascending; None if it has all."""
        return self._kept.get(fragment)


def check_files(dataset: Any, folder: Path) -> None:
    """Checks the ends of a version's files on this machine, of which Lance believes every number.

    A flipped bit there could ask for more memory than the machine has, which ends the process.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the end of a file was altered, or the file was cut short.
    """
    for fragment in dataset.get_fragments():
        for file in fragment.data_files():
            path = folder / "data" / file.path
            with path.open("rb") as opened:
                size = os.fstat(opened.fileno()).st_size
                opened.seek(max(0, size - FOOTER.size))
                end = opened.read()
            if len(end) < FOOTER.size or not _sound(FOOTER.unpack(end), size, max(file.column_indices)):
                raise ValueError(f"{path} was altered or cut short: restore an earlier version of the store.")


def _sound(footer: tuple, size: int, last_column: int) -> bool:
    """Whether the numbers of a footer can be those of a file of this size with so many columns."""
    metadata, columns, buffers, num_buffers, num_columns, *_, magic = footer
    room = size - FOOTER.size
    right = magic == MAGIC and metadata <= columns <= buffers <= room and last_column < num_columns
    return right and columns + ENTRY * num_columns == buffers and buffers + ENTRY * num_buffers == room
