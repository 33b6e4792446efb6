"""How a corpus memory finds passages: exactly, through an index, within a metadata filter.

Letters of the shapes: B questions, N passages, K chosen, T test questions, M memory tokens, H hidden width.
"""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .filters_clara import COLUMN_FIELDS, Where, check_where, passes, with_columns
from .index_clara import SketchIndex
from .index_files_clara import INDEX, holds_index, load_index, remove_index, save_index
from .indexing_clara import RECALL, build_index
from .recompute_clara import RECOMPUTE
from .search_clara import (
    check_search,
    default_block_size,
    exact_scores,
    nearest,
    refine,
    rescore,
    scan,
    unit_rows,
)
from .sketch_clara import DIMENSIONS
from .storage_clara import locked, read_manifest
from .stored_clara import StoredMemory
from .writer_clara import SHARD_SIZE

KNOWN_FILTERS = 4
logger = logging.getLogger(__name__)


class FindingMixin(StoredMemory):
    """Search of a corpus memory, and its index, which counts rows and not indices (see `MemoryTable`)."""

    _norms: np.ndarray = np.empty(0, np.float32)
    _index: SketchIndex | None = None
    _filters: dict[str, np.ndarray] | None = None

    def search(
        self,
        query: Tensor,
        retrieval_top_k: int,
        block_size: int | None = None,
        where: Where | None = None,
        exact: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Finds the K passages with the highest cosine of flattened memories.

        With an index, its candidates and all passages added after it was built are scored exactly: every
        score is exact, and so is the order; a passage is missed only if the index does not propose it.

        Args:
            query: (B, M, H) memories of the questions.
            retrieval_top_k: K.
            block_size: Rows in RAM at a time. Default: 16 MiB of float32, at most 8192 rows.
            where: Which passages may be found, see `filters_clara`; or a function of their metadata.
            exact: True: score all passages. False: use the index. None: the index where there is one.

        Returns:
            (B, K) float32 scores, best first, and (B, K) int64 indices, on the query's device; of equal
            scores the lower index first. A zero memory scores 0. Fewer columns if fewer passages pass
            `where`.

        Raises:
            ValueError: If K is below 1 or above N, M or H of the query are not the memory's, `where` is no
                filter, the index belongs to another store, or `exact` is False or texts alone are stored
                and there is no index.
            ModuleNotFoundError: If there is an index, but no FAISS.
        """
        check_search(query, self._shape, len(self), retrieval_top_k, block_size)
        block_size = block_size or default_block_size(self.num_memory_tokens * self.hidden_size)
        allowed = self._allowed(where)
        index = None if exact else self.index
        if index is None and exact is False:
            raise ValueError("`exact` is False, but there is no index: make one with `build_index`.")
        if index is None and exact is None and self.stored_dtype == RECOMPUTE:
            raise ValueError(
                "This corpus memory stores texts alone and has no index: make one with `build_index`, or "
                f"search with `exact=True`, which compresses all {len(self)} passages anew."
            )
        k = retrieval_top_k if allowed is None else min(retrieval_top_k, int(allowed.sum()))
        if k == 0:
            return query.new_empty(len(query), 0).float(), query.new_empty(len(query), 0, dtype=torch.long)
        proposed = None if index is None else self._propose(index, query, k, allowed)
        if proposed is None:
            rows = None if allowed is None else torch.from_numpy(np.flatnonzero(allowed))
            return nearest(query, k, self._read, self.gather, self._known_norms(), block_size, rows)
        candidates = refine(query, proposed, self.gather, k, block_size)
        late = self._after(len(index), allowed)
        if len(late):
            norms = self._known_norms()
            late = scan(query, k, self._read, self.gather, norms, block_size, late)
            candidates = torch.cat([candidates, late], dim=1)
        return rescore(query, candidates, self.gather, k)

    def _propose(
        self, index: SketchIndex, query: Tensor, k: int, allowed: np.ndarray | None
    ) -> Tensor | None:
        """Candidates (B, C) of the index, -1 for none; None where an exact search is better or needed."""
        count = index.count_for(k)
        rows = self._allowed_rows(len(index), allowed)
        there = len(index) if rows is None else int(rows.sum())
        if rows is not None and there <= 2 * count:
            return None
        wanted = index.effort.cells * len(index) // there
        for cells in (wanted, index.num_cells):
            proposed = self.indices_of(index.propose(query, count, rows, cells or None))
            if int((proposed >= 0).sum(dim=1).min()) >= min(k, there):
                return proposed
        return None

    def _allowed_rows(self, covered: int, allowed: np.ndarray | None) -> np.ndarray | None:
        """The first rows as (covered,) bool, True where a passage is there and allowed; None if all are."""
        if allowed is None and len(self) == self._row_count():
            return None
        indices = torch.arange(len(self)) if allowed is None else torch.from_numpy(np.flatnonzero(allowed))
        rows = np.zeros(self._row_count(), bool)
        rows[self.rows_of(indices).numpy()] = True
        return rows[:covered]

    def _after(self, covered: int, allowed: np.ndarray | None) -> Tensor:
        """Indices of the allowed passages in the rows after the first `covered`, ascending."""
        if covered == self._row_count():
            return torch.empty(0, dtype=torch.long)
        late = self.indices_of(torch.arange(covered, self._row_count()))
        late = late[late >= 0]
        return late if allowed is None else late[torch.from_numpy(allowed)[late]]

    def _row_count(self) -> int:
        """Rows in the shards, deleted ones included."""
        return sum(len(shard.memory) for shard in self._shards)

    def _known_norms(self) -> Tensor:
        """(N,) norms of the rows, NaN where not computed yet; a search fills them in."""
        missing = np.full(len(self) - len(self._norms), np.nan, np.float32)
        self._norms = np.concatenate([self._norms, missing]) if len(missing) else self._norms
        return torch.from_numpy(self._norms)

    def _allowed(self, where: Where | None) -> np.ndarray | None:
        """(N,) bool, True for the passages that pass; the latest filters are remembered."""
        check_where(where)
        if where is None:
            return None
        key = None
        if not callable(where):
            key = f"{self._row_count()} {json.dumps(where, sort_keys=True, default=sorted)}"
        known = self._filters or {}
        if key not in known or len(known[key]) != len(self):
            known = dict(list(known.items())[1 - KNOWN_FILTERS :])
            known[key] = self.matches(where)
        if key is not None:
            self._filters = known
        return known[key]

    def matches(self, where: Where, rows: Sequence[int] | None = None) -> np.ndarray:
        """Which passages pass a filter.

        Args:
            where: As of `search`.
            rows: n indices of passages. None: all N.

        Returns:
            (n,) bool.
        """
        check_where(where)
        names = ("metadata", *(COLUMN_FIELDS if callable(where) or set(where) & set(COLUMN_FIELDS) else ()))
        columns = [self._column(name) for name in names]
        if rows is None:
            values = zip(*columns, strict=True)
            count = len(self)
        else:
            values = ([column[int(row)] for column in columns] for row in rows)
            count = len(rows)
        fields = (with_columns(*row) if len(row) > 1 else json.loads(row[0]) for row in values)
        return np.fromiter((passes(where, entry) for entry in fields), bool, count)

    def scores(self, query: Tensor, indices: Tensor) -> Tensor:
        """Exact cosines (B, C) of questions (B, M, H) and the passages at `indices` (B, C), -inf for -1."""
        units = unit_rows(query.cpu())
        found = [
            exact_scores(unit, self.gather(rows.clamp_min(0)))
            for unit, rows in zip(units, indices.cpu(), strict=True)
        ]
        return torch.stack(found).masked_fill(indices.cpu() < 0, float("-inf"))

    @property
    def index(self) -> SketchIndex | None:
        """The index: the one built here, or the one in the folder that the memory was loaded from.

        Raises:
            ValueError: If the one in the folder belongs to another store or is damaged.
        """
        folder = self._whole_store()
        if self._index is None and folder is not None and (folder / INDEX).is_file():
            self._index = load_index(folder, self._entries)
        return self._index

    def build_index(
        self,
        kind: str | None = None,
        dimensions: int = DIMENSIONS,
        questions: Tensor | None = None,
        tests: Tensor | None = None,
        recall: float = RECALL,
        seed: int = 0,
        show_progress: bool = False,
    ) -> None:
        """Builds the index that `search` then uses; into the folder of a memory that is stored.

        [`BuildingMixin.build_index`] of a model gives it questions to learn from.

        Args:
            kind: One of `searchers_clara.KINDS`. None: by the number of passages.
            dimensions: Numbers of a sketch.
            questions: (T, M, H) memories of questions to learn the sketch from. None: stored memories.
            tests: (T', M, H) memories of other questions, by which recall is measured and the number of
                candidates chosen. None: means of two stored memories.
            recall: Recall@5 against exact search to be reached on half of them; `index.recall` says what the
                other half reaches.
            seed: Of the samples.
            show_progress: Show a progress bar.

        Raises:
            ValueError: If an argument is out of range.
            ModuleNotFoundError: If FAISS is not installed.
            RuntimeError: If another writer is at work in the folder.
        """
        folder = self._whole_store()
        if folder is not None and len(self._shards) > self._stored.shards:
            folder = None  # the store lacks the last rows; the index is saved with them
        index = build_index(self, kind, dimensions, questions, tests, recall, seed, folder, show_progress)
        if folder is not None:
            with locked(folder):
                save_index(folder, index, self._entries)
            index = load_index(folder, self._entries)
        self._index = index

    def _whole_store(self) -> Path | None:
        """The folder whose shards begin with all rows of this memory, as far as they are stored."""
        if self._stored is None:
            return None
        rows = sum(len(shard.memory) for shard in self._shards[: self._stored.shards])
        same = rows == sum(entry.rows for entry in self._entries)
        return Path(self._stored.folder) if same else None

    def save_pretrained(self, folder: str | os.PathLike, max_shard_size: int | str = SHARD_SIZE) -> None:
        """As [`StoredMemory.save_pretrained`]; an index goes along, if no row gets another number."""
        rows = self._row_count()
        super().save_pretrained(folder, max_shard_size)
        if self._row_count() != rows:
            self._index = None

    def compact(self, max_shard_size: int | str = SHARD_SIZE) -> None:
        """As [`StoredMemory.compact`]; the index goes along, if no row gets another number."""
        rows = self._row_count()
        super().compact(max_shard_size)
        if self._row_count() != rows:
            self._index = None

    def _save(
        self, folder: Path, max_shard_size: int | str = SHARD_SIZE, anew: bool = False
    ) -> tuple[str, int]:
        index = self._usable_index()
        digest, first = super()._save(folder, max_shard_size, anew)
        renumbered = any(shard.kept is not None for shard in self._shards[first:])
        shards = read_manifest(folder)[0].shards
        if not holds_index(folder, shards):
            with locked(folder):
                remove_index(folder)
                if index is not None and not renumbered:
                    save_index(folder, index, shards)
        return digest, first

    def _usable_index(self) -> SketchIndex | None:
        """The index, or None with a warning where the one in the folder cannot be used."""
        try:
            return self.index
        except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
            logger.warning("The index is left out: %s", error)
            return None
