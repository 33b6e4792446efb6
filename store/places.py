"""Where the rows of a version of a store lie."""

from typing import Any

import numpy as np

ADDRESS_BITS = 32


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
