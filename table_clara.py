"""A table of passages and their memories over shards in RAM and in files; only the rows asked for are read.

Letters of the shapes: B questions, N passages, K chosen, M memory tokens, H hidden width, n rows asked for.
"""

import itertools
import json
from collections.abc import Sequence

import torch
from torch import Tensor

from .columns_clara import Column
from .formats_clara import read_dtype
from .recompute_clara import CACHE_ROWS, Compress
from .shards_clara import Shard


class MemoryTable:
    """N passages with memories (M, H), in shards.

    An index counts passages that are not deleted, from 0 to N - 1. A row counts what the shards hold, deleted
    passages included: it stays the same when others are deleted or appended, and changes when the store is
    compacted or saved to another folder.

    Args:
        shards: At least one, not empty.
        shape: (M, H).
        dtype: The format of the memories.
        fingerprint: Identity of the compressor, memory tokens and base that made the memories.
        base: Name and revision of the base model.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        shape: tuple[int, int],
        dtype: str,
        fingerprint: str | None,
        base: dict | None,
    ) -> None:
        self._shape, self._dtype = tuple(shape), dtype
        self._fingerprint, self._base = fingerprint, base
        self._hold(shards)

    def _hold(self, shards: Sequence[Shard]) -> None:
        """Takes shards in place of those that are there."""
        self._shards = list(shards)
        self._ends = list(itertools.accumulate(len(shard) for shard in self._shards))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self)} passages, {self.num_memory_tokens} memory tokens of width "
            f"{self.hidden_size}, {self.stored_dtype})"
        )

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def texts(self) -> Sequence[str]:
        """N texts."""
        return self._column("text")

    @property
    def document_ids(self) -> Sequence[str]:
        """N unique ids."""
        return self._column("document_id")

    @property
    def metadata(self) -> Sequence[dict]:
        """N mappings; each access gives a fresh copy."""
        return Column([shard.column("metadata") for shard in self._shards], json.loads)

    @property
    def parents(self) -> Sequence[str]:
        """N ids of the documents that the passages were cut from."""
        return self._column("parent")

    @property
    def orders(self) -> Sequence[int]:
        """N places of the passages in their parents."""
        return self._column("order")

    def _column(self, name: str) -> Column:
        return Column([shard.column(name) for shard in self._shards])

    @property
    def num_memory_tokens(self) -> int:
        """M."""
        return self._shape[0]

    @property
    def hidden_size(self) -> int:
        """H."""
        return self._shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype in which memories are read: that of the stored ones, or float32 for int8 and int4."""
        return read_dtype(self._dtype)

    @property
    def stored_dtype(self) -> str:
        """Name of the format in which the memories are stored."""
        return self._dtype

    @property
    def fingerprint(self) -> str | None:
        """Identity of what made the memories."""
        return self._fingerprint

    @property
    def base(self) -> dict | None:
        """Name and revision of the base model."""
        return self._base

    def __getitem__(self, key: int | slice) -> Tensor:
        """One memory (M, H), or those of a slice (n, M, H), on the CPU."""
        rows = range(len(self))[key]
        if isinstance(key, slice):
            if rows.step == 1:
                return self._read(rows.start, max(rows.start, rows.stop))
            return self.gather(torch.tensor(rows, dtype=torch.long))
        return self._read(rows, rows + 1)[0]

    def _read(self, start: int, stop: int) -> Tensor:
        """Rows start to stop, (stop - start, M, H); a view where they lie in one shard in RAM."""
        parts = []
        for shard, end in zip(self._shards, self._ends, strict=True):
            first = end - len(shard)
            if start < end and first < stop:
                parts.append(shard.read(slice(max(start - first, 0), stop - first)))
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else torch.empty(0, *self._shape, dtype=self.dtype)

    def gather(self, indices: Tensor) -> Tensor:
        """Reads the memories at `indices`, and no others.

        Args:
            indices: (B, K) int64, or any other shape.

        Returns:
            (B, K, M, H) on the device of `indices`.

        Raises:
            IndexError: If an index is below 0 or not below N.
            TypeError: If `indices` are not whole numbers.
        """
        if indices.is_floating_point() or indices.dtype == torch.bool:
            raise TypeError(f"`indices` must be whole numbers, got {indices.dtype}.")
        flat = indices.reshape(-1).cpu().long()
        outside = flat[(flat < 0) | (flat >= len(self))]
        if len(outside):
            raise IndexError(f"`indices` must be from 0 to {len(self) - 1}, got {int(outside[0])}.")
        found = torch.empty(len(flat), *self._shape, dtype=self.dtype)
        places, order = torch.bucketize(flat, torch.tensor(self._ends), right=True).sort(stable=True)
        visited, counts = places.unique_consecutive(return_counts=True)
        for place, rows in zip(visited.tolist(), order.split(counts.tolist()), strict=True):
            shard = self._shards[place]
            found[rows] = shard.read(flat[rows] - (self._ends[place] - len(shard)))
        return found.view(*indices.shape, *self._shape).to(indices.device)

    def attach(self, compress: Compress, cache_size: int = CACHE_ROWS) -> None:
        """Says what compresses the passages of a store of texts alone; changes nothing for other ones.

        Args:
            compress: Gives memories (k, M, H) for k texts.
            cache_size: Most memories that stay in RAM, the latest ones.
        """
        for shard in self._shards:
            if shard.memory.source is not None:
                shard.memory.source.compress, shard.memory.source.size = compress, cache_size

    def rows_of(self, indices: Tensor) -> Tensor:
        """The rows, int64 on the CPU, of passages at `indices` (from 0 to N - 1, any shape)."""
        flat = indices.reshape(-1).cpu().long()
        rows = flat.clone()
        places = torch.bucketize(flat, torch.tensor(self._ends), right=True)
        start = 0
        for place, shard in enumerate(self._shards):
            here = places == place
            local = flat[here] - (self._ends[place] - len(shard))
            rows[here] = start + (local if shard.kept is None else torch.from_numpy(shard.kept)[local])
            start += len(shard.memory)
        return rows.view(indices.shape)

    def indices_of(self, rows: Tensor) -> Tensor:
        """The indices, int64 on the CPU, of passages at `rows` (any shape); -1 where there is none."""
        flat = rows.reshape(-1).cpu().long()
        indices = torch.full_like(flat, -1)
        start = 0
        for shard, end in zip(self._shards, self._ends, strict=True):
            here = (flat >= start) & (flat < start + len(shard.memory))
            indices[here] = shard.places(flat[here] - start, end - len(shard))
            start += len(shard.memory)
        return indices.view(rows.shape)
