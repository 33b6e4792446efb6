"""The search vectors of a store as memory maps of its files, which no process has to decode or to hold.

Lance writes wide vectors one after the other, without compression. Where a file is on this machine and has
that layout, rows are read from the map: ten times as fast as row by row through Lance, and the pages are the
system's. Everywhere else (object storage, narrow vectors) Lance reads them.

Letters of the shapes: N passages, n rows, D width of a search vector.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from lance.file import LanceFileReader

from .places import Places
from .writing import local_folder

OFFSET = (1 << 32) - 1
BYTES = 2  # of a number of half precision


class Vectors:
    """The vectors of one version by their addresses in Lance.

    Args:
        dataset: The Lance dataset.
        places: Its rows.
        uri: Where it lies.
        width: D.
    """

    def __init__(self, dataset: Any, places: Places, uri: str, width: int) -> None:
        self._dataset, self._places, self._width = dataset, places, width
        self._maps: dict[int, list[tuple[int, np.ndarray]]] = {}
        folder, field = local_folder(uri), dataset.lance_schema.field("vector").id()
        for fragment in dataset.get_fragments() if folder is not None else ():
            pages = [page for file in fragment.data_files() for page in self._pages(folder, file, field)]
            if sum(len(page) for _, page in pages) == fragment.physical_rows and self._right(fragment, pages):
                self._maps[fragment.fragment_id] = pages

    def _pages(self, folder: Any, file: Any, field: int) -> Iterator[tuple[int, np.ndarray]]:
        """The maps of a file's pages, each with its first row; none if a page is laid out in another way."""
        if field not in file.fields:
            return
        path = folder / "data" / file.path
        column = file.column_indices[list(file.fields).index(field)]
        raw, start = np.memmap(path, np.uint8, "r"), 0
        for page in LanceFileReader(str(path)).metadata().columns[column].pages:
            rows, rest = (
                divmod(page.buffers[0].size, BYTES * self._width) if len(page.buffers) == 1 else (0, 1)
            )
            if rest:
                return
            first = page.buffers[0].position
            part = raw[first : first + page.buffers[0].size].view(np.float16)
            yield start, part.reshape(-1, self._width)
            start += len(part) // self._width

    def _right(self, fragment: Any, pages: list[tuple[int, np.ndarray]]) -> bool:
        """Whether the first and the last row of every page are what Lance reads there."""
        kept = self._places.kept(fragment.fragment_id)
        kept = np.arange(fragment.physical_rows) if kept is None else kept
        ends = [(start, start + len(page) - 1) for start, page in pages]
        rows = sorted({int(row) for pair in ends for row in np.searchsorted(kept, pair) if row < len(kept)})
        if not rows:
            return True
        seen = self._matrix(fragment.take(rows, columns=["vector"]).column(0))
        return seen.tobytes() == self._mapped(pages, kept[rows].astype(np.int64)).tobytes()

    def _matrix(self, column: Any) -> np.ndarray:
        values = column.combine_chunks() if hasattr(column, "combine_chunks") else column
        return values.flatten().to_numpy().reshape(-1, self._width)

    @property
    def whole(self) -> bool:
        """Whether every fragment is mapped."""
        return len(self._maps) == len(self._dataset.get_fragments())

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """All vectors that are not deleted, (n, D) float16 at a time, in the order of the indices."""
        for fragment in self._dataset.get_fragments():
            kept = self._places.kept(fragment.fragment_id)
            for start, page in self._maps[fragment.fragment_id]:
                if kept is not None:
                    inside = kept[np.searchsorted(kept, start) : np.searchsorted(kept, start + len(page))]
                    page = page[inside.astype(np.int64) - start]
                for first in range(0, len(page), rows):
                    yield page[first : first + rows]

    def at(self, addresses: np.ndarray) -> np.ndarray:
        """Vectors (n, D) float16 at addresses (n,)."""
        if not self.whole:
            unique, places = np.unique(addresses, return_inverse=True)
            return self._matrix(self._dataset._take_rows(unique.tolist(), columns=["vector"]).column(0))[
                places
            ]
        found = np.empty((len(addresses), self._width), np.float16)
        numbers = addresses >> 32
        for number in np.unique(numbers):
            inside = np.flatnonzero(numbers == number)
            found[inside] = self._mapped(self._maps[int(number)], addresses[inside] & OFFSET)
        return found

    def _mapped(self, pages: list[tuple[int, np.ndarray]], offsets: np.ndarray) -> np.ndarray:
        """Vectors (n, D) of a fragment's rows (n,)."""
        found = np.empty((len(offsets), self._width), np.float16)
        order = np.argsort(offsets, kind="stable")
        bounds = np.searchsorted(offsets[order], [start for start, _ in pages] + [OFFSET])
        for (start, page), first, stop in zip(pages, bounds, bounds[1:], strict=False):
            inside = order[first:stop]
            found[inside] = page[offsets[inside] - start]
        return found
