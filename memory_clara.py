"""CorpusMemory: the memories of a corpus with ids, texts and metadata; append, search, save, load.

Letters of the shapes: B questions, N passages, K chosen, M memory tokens, H hidden width.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .hub_clara import download_store, upload_store, write_card
from .manifest_clara import MANIFEST, Manifest, check_identity, make_manifest
from .passages_clara import COLUMNS, check_passages
from .search_clara import check_search, default_block_size, nearest
from .shards_clara import DTYPES, Shard, check_memory, dtype_name
from .storage_clara import ShardSequence, commit, locked, open_shards, read_manifest, rows_in
from .table_clara import MemoryTable
from .writer_clara import SHARD_SIZE, StoreWriter

COPY_BYTES = 1 << 26
INTERFACE = (
    "texts",
    "document_ids",
    "num_memory_tokens",
    "hidden_size",
    "fingerprint",
    "gather",
    "search",
    "append",
)


def is_corpus_memory(value: Any) -> bool:
    """Whether a value is a corpus memory, be it of another copy of this class (remote code makes copies)."""
    return all(hasattr(value, name) for name in INTERFACE)


class CorpusMemory(MemoryTable):
    """N passages with their memories, for search and for generation.

    Args:
        memory: (N, M, H) float32, float16 or bfloat16. It is not copied: do not change it afterwards.
        texts: N texts.
        document_ids: N unique strings. Default: "0", "1", …
        metadata: N JSON-serialisable mappings. Default: empty.
        parents: N ids of the documents that the passages were cut from. Default: each passage's own id.
        orders: N places of the passages in their parents. Default: 0.
        fingerprint: Identity of the compressor, memory tokens and base that made the memories.
        base: `{"name", "revision"}` of the base model, for the reader of the manifest.

    Raises:
        ValueError: If there is no passage, lengths differ, an id occurs twice, a memory holds NaN or an
            infinity, or a text is not valid Unicode. The message names the index.

    A memory that was loaded from a folder reads rows and texts from there when they are asked for: keep the
    folder while the memory is in use.
    """

    _norms: np.ndarray = np.empty(0, np.float32)
    _stored: tuple[str, str, int] | None = None

    def __init__(
        self,
        memory: Tensor,
        texts: Sequence[str],
        document_ids: Sequence[str] | None = None,
        metadata: Sequence[dict] | None = None,
        parents: Sequence[str] | None = None,
        orders: Sequence[int] | None = None,
        fingerprint: str | None = None,
        base: dict | None = None,
    ) -> None:
        memory = check_memory(memory)
        columns = check_passages(len(memory), texts, document_ids, metadata, parents, orders)
        check_identity(fingerprint, base)
        super().__init__([Shard(memory, columns)], memory.shape[1:], memory.dtype, fingerprint, base)

    def search(
        self, query: Tensor, retrieval_top_k: int, block_size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Finds the K passages with the highest cosine of flattened memories, exactly.

        Args:
            query: (B, M, H) memories of the questions.
            retrieval_top_k: K.
            block_size: Rows in RAM at a time. Default: 64 MiB of float32, at most 8192 rows.

        Returns:
            (B, K) float32 scores, best first, and (B, K) int64 indices, on the query's device; of equal
            scores the lower index first. A zero memory scores 0.

        Raises:
            ValueError: If K is below 1 or above N, or M or H of the query are not the memory's.
        """
        check_search(query, self._shape, len(self), retrieval_top_k, block_size)
        block_size = block_size or default_block_size(self.num_memory_tokens * self.hidden_size)
        missing = np.full(len(self) - len(self._norms), np.nan, np.float32)
        self._norms = np.concatenate([self._norms, missing]) if len(missing) else self._norms
        norms = torch.from_numpy(self._norms)
        return nearest(query, retrieval_top_k, self._read, self.gather, norms, block_size)

    def append(self, other: "CorpusMemory") -> None:
        """Adds the passages of another corpus memory, in place; its memories take this one's dtype.

        Raises:
            TypeError: If `other` is not a corpus memory.
            ValueError: If another compressor or base made it, M or H differ, or an id is here already.
                Nothing is added then.
        """
        if not is_corpus_memory(other):
            raise TypeError(f"`other` must be a corpus memory, got {type(other).__name__}.")
        self._check_kin(other)
        document_ids = list(other.document_ids)
        known = set(document_ids)
        for document_id in self.document_ids:
            if document_id in known:
                raise ValueError(
                    f"`other` has the id {document_id!r}, which this memory has already: rename it."
                )
        memory = check_memory(other[:].to(self.dtype))
        columns = check_passages(
            len(memory),
            list(other.texts),
            document_ids,
            list(other.metadata),
            list(other.parents),
            list(other.orders),
        )
        self._extend([Shard(memory, columns)])

    def _check_kin(self, other: "CorpusMemory") -> None:
        if other.fingerprint != self.fingerprint:
            raise ValueError(
                f"`other` has fingerprint {other.fingerprint}, this memory {self.fingerprint}: another "
                "compressor or base made it; build it again with this memory's model."
            )
        shape = (other.num_memory_tokens, other.hidden_size)
        if shape != self._shape:
            raise ValueError(f"`other` has (M, H) = {shape}, this memory {self._shape}: they must be equal.")

    def save_pretrained(self, folder: str | os.PathLike, max_shard_size: int | str = SHARD_SIZE) -> None:
        """Writes the memory to a folder; a process killed on the way leaves what was there before.

        Into the folder that this memory was loaded from or saved to last, only what was appended since is
        written. Another store that is there is replaced.

        Args:
            folder: The folder.
            max_shard_size: Bytes of memories in a shard, or a text such as "500MB".

        Raises:
            RuntimeError: If another writer is at work there, or has changed the store since this memory was
                loaded or saved.
        """
        digest = self._save(Path(folder), max_shard_size)
        self._stored = (os.path.realpath(folder), digest, len(self))

    def _save(self, folder: Path, max_shard_size: int | str = SHARD_SIZE) -> str:
        """Writes the store and returns the SHA-256 of its manifest."""
        row_bytes = self.num_memory_tokens * self.hidden_size * self.dtype.itemsize
        rows_per_shard = rows_in(max_shard_size, row_bytes)
        with locked(folder):
            kept, start = self._kept(folder)
            if start == len(self):
                return self._stored[1]
            sequence = ShardSequence(folder, kept, rows_per_shard)
            try:
                self._write_rows(sequence, start, max(1, COPY_BYTES // row_bytes))
                return commit(folder, self._manifest(sequence.close()))
            except BaseException:
                sequence.abort()
                raise

    def _kept(self, folder: Path) -> tuple[tuple, int]:
        """The shards in the folder that hold this memory's first rows, and how many rows those are."""
        if not (folder / MANIFEST).exists():
            return (), 0
        manifest, digest = read_manifest(folder)
        if self._stored is None or self._stored[0] != os.path.realpath(folder):
            return (), 0
        if self._stored[1] != digest:
            raise RuntimeError(
                f"The store in {folder} was changed by another writer since this memory was loaded or saved: "
                "load it again and append to that, or save to another folder."
            )
        return manifest.shards, self._stored[2]

    def _write_rows(self, sequence: ShardSequence, start: int, step: int) -> None:
        for first in range(start, len(self), step):
            stop = min(len(self), first + step)
            columns = {name: self._column(name)[first:stop] for name in COLUMNS}
            sequence.write(self._read(first, stop), columns)

    def _manifest(self, shards: tuple) -> Manifest:
        return make_manifest(shards, self._shape, dtype_name(self.dtype), self.fingerprint, self.base)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo_id: str | os.PathLike,
        fingerprint: str | None = None,
        verify: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | None = None,
    ) -> "CorpusMemory":
        """Opens a stored memory; rows and texts stay on disk until they are asked for.

        Args:
            folder_or_repo_id: A folder, or a dataset repository on the Hub.
            fingerprint: Identity of the compressor and base that must have made the memories. None: any.
            verify: Compare the checksums of all files. None: if they have less than 1 GB together. Sizes,
                headers and the manifest are always checked.
            revision: Branch, tag or commit of the repository.
            token: Token for the Hub.
            cache_dir: Where the Hub's files are kept.

        Raises:
            FileNotFoundError: If there is no store, it is unfinished, or a shard is missing.
            ValueError: If another compressor or base made it, or a file is damaged.
        """
        folder = Path(folder_or_repo_id)
        if not folder.is_dir():
            folder = download_store(str(folder_or_repo_id), revision, token, cache_dir)
        manifest, digest = read_manifest(folder)
        if fingerprint is not None and manifest.fingerprint != fingerprint:
            raise ValueError(
                f"The memories in {folder} were made by another compressor or base (fingerprint "
                f"{manifest.fingerprint}, expected {fingerprint}): build them again with this model, or load "
                "the model that made them."
            )
        shape = (manifest.num_memory_tokens, manifest.hidden_size)
        memory = cls.__new__(cls)
        shards = open_shards(folder, manifest, verify)
        dtype = DTYPES[manifest.dtype].torch
        MemoryTable.__init__(memory, shards, shape, dtype, manifest.fingerprint, manifest.base)
        memory._stored = (os.path.realpath(folder), digest, len(memory))
        return memory

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Uploads the memory, with a dataset card, in one commit to a dataset repository (made if need be).

        Returns:
            The address of the commit.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self._save(folder)
            write_card(folder, repo_id, read_manifest(folder)[0])
            return upload_store(folder, repo_id, private, token, revision, commit_message)


class CorpusMemoryWriter(StoreWriter):
    """Writes a corpus memory to a folder as its passages come, so that it may be larger than RAM.

    ```python
    with CorpusMemoryWriter(folder, fingerprint=model.memory_fingerprint()) as writer:
        for batch in batches:
            writer.add(batch.memory, batch.texts, batch.document_ids)
        memory = writer.finish()
    ```
    """

    def finish(self) -> CorpusMemory:
        """Completes the store and opens it.

        Raises:
            ValueError: If no passage was added.
            RuntimeError: If the writer is finished or was stopped.
        """
        self.finish_store()
        return CorpusMemory.from_pretrained(self.folder, verify=False)
