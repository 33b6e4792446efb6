"""A set of ids for millions of passages: 16 bytes of RAM each instead of about a hundred."""

import hashlib
from collections.abc import Iterable

import numpy as np

RECENT = 1 << 16


class IdSet:
    """Strings by their 128-bit digests: two different ones are never seen to clash."""

    def __init__(self) -> None:
        self._recent: set[bytes] = set()
        self._sorted: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._recent) + sum(len(part) for part in self._sorted)

    def __contains__(self, value: str) -> bool:
        digest = _digest(value)
        return digest in self._recent or any(_holds(part, digest) for part in self._sorted)

    def update(self, values: Iterable[str]) -> None:
        """Adds strings that are not in the set yet."""
        for value in values:
            self._recent.add(_digest(value))
            if len(self._recent) >= RECENT:
                self._merge()

    def _merge(self) -> None:
        """Sorts what came in last; joins arrays of like size, so that there are few of them."""
        newest = np.sort(np.array(list(self._recent), "S16"))
        while self._sorted and len(self._sorted[-1]) <= len(newest):
            newest = np.sort(np.concatenate([self._sorted.pop(), newest]))
        self._sorted.append(newest)
        self._recent = set()


def _digest(value: str) -> bytes:
    return hashlib.blake2b(value.encode(), digest_size=16).digest()


def _holds(part: np.ndarray, digest: bytes) -> bool:
    wanted = np.array(digest, "S16")
    place = int(np.searchsorted(part, wanted))
    return place < len(part) and part[place] == wanted
