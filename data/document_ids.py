"""The ids of a corpus of any size: each once, and none named as a part of another document."""

import hashlib
from collections.abc import Iterable

import numpy as np

from ..processing_clara import PART, part_clash

RECENT = 1 << 16


class IdSet:
    """Strings by their 128-bit digests, 16 bytes each: two different ones are never seen to clash."""

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


class DocumentIds:
    """Ids that were seen; a few bytes each."""

    def __init__(self) -> None:
        self._seen = IdSet()
        self._parts: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, document_id: str, place: str) -> None:
        """Adds an id.

        Raises:
            ValueError: If it was there already; begins with the place.
        """
        if document_id in self._seen:
            raise ValueError(f"{place}: the id {document_id!r} occurs twice: ids must be unique.")
        self._seen.update([document_id])
        if PART.fullmatch(document_id):
            self._parts.append((document_id, place))

    def check(self) -> None:
        """Called when all are there.

        Raises:
            ValueError: If one is named as a part of another (`d#1` beside `d`); begins with its place.
        """
        for document_id, place in self._parts:
            parent = PART.fullmatch(document_id)[1]
            if parent in self._seen:
                raise ValueError(f"{place}: {part_clash(document_id, parent)}")
