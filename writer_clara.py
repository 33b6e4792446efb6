"""Writes a stored corpus memory as its passages come, so that it may be larger than RAM."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor

from .formats_clara import check_memory, format_name, memory_bytes, pack
from .ids_clara import IdSet
from .manifest_clara import MANIFEST, check_identity, make_manifest
from .passages_clara import check_passages
from .storage_clara import ShardSequence, commit, locked, rows_in

SHARD_SIZE = "1GB"
Writer = TypeVar("Writer", bound="StoreWriter")


class StoreWriter:
    """Writes one new store; nothing loads before `finish_store`.

    Args:
        folder: Where the store goes. What a writer that was killed left there is removed.
        fingerprint: Identity of the compressor, memory tokens and base that make the memories.
        base: `{"name", "revision"}` of the base model.
        rows_per_shard: Passages in a shard. Default: as many as make 1 GB.
        dtype: Format of the stored memories, "int8" and "int4" too. Default: the dtype of the first memories.

    Raises:
        FileExistsError: If the folder holds a store already.
        RuntimeError: If another writer is at work there.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        fingerprint: str | None = None,
        base: dict | None = None,
        rows_per_shard: int | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> None:
        if rows_per_shard is not None and rows_per_shard < 1:
            raise ValueError(f"`rows_per_shard` must be at least 1, got {rows_per_shard}.")
        check_identity(fingerprint, base)
        self.folder, self._fingerprint, self._base = Path(folder), fingerprint, base
        self._rows_per_shard = rows_per_shard
        self._dtype = None if dtype is None else format_name(dtype)
        self._ids = IdSet()
        self._shape: tuple[int, int] | None = None
        self._first_dtype: torch.dtype | None = None
        self._sequence: ShardSequence | None = None
        with ExitStack() as stack:
            stack.enter_context(locked(self.folder))
            if (self.folder / MANIFEST).exists():
                raise FileExistsError(
                    f"{self.folder} holds a stored corpus memory already: remove it, write to "
                    "another folder, or load it and `append`."
                )
            self._lock = stack.pop_all()

    def __len__(self) -> int:
        return len(self._ids)

    def add(
        self,
        memory: Tensor,
        texts: Sequence[str],
        document_ids: Sequence[str],
        metadata: Sequence[dict] | None = None,
        parents: Sequence[str] | None = None,
        orders: Sequence[int] | None = None,
    ) -> None:
        """Adds n passages; arguments as of `CorpusMemory`, ids unique over all calls.

        Args:
            memory: (n, M, H), with M, H and dtype of the first call.
            texts: n texts.
            document_ids: n ids.
            metadata: n mappings.
            parents: n ids.
            orders: n places.

        Raises:
            ValueError: As `CorpusMemory`; nothing of this call is written then, and the writer goes on.
            RuntimeError: If the writer is finished or was stopped by an error while writing.
        """
        self._check_open()
        memory = check_memory(memory)
        columns = check_passages(len(memory), texts, document_ids, metadata, parents, orders)
        self._check_next(memory, columns["document_id"])
        parts = pack(memory, self._dtype or format_name(memory.dtype))
        try:
            if self._sequence is None:
                self._begin(memory)
            self._sequence.write(parts, columns)
        except BaseException:
            self.abort()
            raise
        self._ids.update(columns["document_id"])

    def finish_store(self) -> None:
        """Completes the store: from here on it loads.

        Raises:
            ValueError: If no passage was added.
            RuntimeError: If the writer is finished or was stopped.
        """
        self._check_open()
        if self._sequence is None:
            raise ValueError("A corpus memory needs at least one passage: `add` some before `finish`.")
        try:
            shards = self._sequence.close()
            commit(
                self.folder, make_manifest(shards, self._shape, self._dtype, self._fingerprint, self._base)
            )
        except BaseException:
            self.abort()
            raise
        self._release()

    def abort(self) -> None:
        """Gives up: removes what was written and lets other writers in."""
        try:
            if self._sequence is not None:
                self._sequence.abort()
        finally:
            self._release()

    def __enter__(self: Writer) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is None:
            return
        self.abort()
        if kind is None:
            raise RuntimeError(
                f"The writer of {self.folder} was left without `finish()`: nothing was stored."
            )

    def _release(self) -> None:
        self._lock.close()
        self._lock = None

    def _check_open(self) -> None:
        if self._lock is None:
            raise RuntimeError(f"The writer of {self.folder} is closed: it finished, or an error stopped it.")

    def _begin(self, memory: Tensor) -> None:
        self._shape, self._first_dtype = tuple(memory.shape[1:]), memory.dtype
        self._dtype = self._dtype or format_name(memory.dtype)
        rows = self._rows_per_shard or rows_in(SHARD_SIZE, memory_bytes(self._dtype, self._shape))
        self._sequence = ShardSequence(self.folder, (), rows, self._shape, self._dtype)

    def _check_next(self, memory: Tensor, document_ids: list[str]) -> None:
        kind, first = (tuple(memory.shape[1:]), memory.dtype), (self._shape, self._first_dtype)
        if self._shape is not None and kind != first:
            raise ValueError(f"`memory` must have (M, H) and dtype {first} as the first, got {kind}.")
        for index, document_id in enumerate(document_ids):
            if document_id in self._ids:
                raise ValueError(f"`document_ids[{index}]` is {document_id!r}, which was added before.")
