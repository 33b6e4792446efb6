"""A corpus memory in a folder: opened lazily, saved so that a kill leaves the old store or the new one."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from .formats_clara import memory_bytes
from .hub_clara import download_store, upload_store, write_card
from .manifest_clara import MANIFEST, Manifest, make_manifest
from .passages_clara import COLUMNS
from .shards_clara import ShardEntry
from .storage_clara import ShardSequence, commit, locked, open_store, read_manifest, rows_in
from .table_clara import MemoryTable
from .writer_clara import SHARD_SIZE

COPY_BYTES, COPY_ROWS = 1 << 26, 8192
Memory = TypeVar("Memory", bound="StoredMemory")


class Place(NamedTuple):
    """Where a memory is stored: the folder, the SHA-256 of the manifest, and how many of its shards."""

    folder: str
    digest: str
    shards: int


class StoredMemory(MemoryTable):
    """What [`CorpusMemory`] can do with a folder and with the Hub."""

    _stored: Place | None = None
    _entries: Sequence[ShardEntry] = ()

    def save_pretrained(self, folder: str | os.PathLike, max_shard_size: int | str = SHARD_SIZE) -> None:
        """Writes the memory to a folder; a process killed on the way leaves what was there before.

        Into the folder that this memory was loaded from or saved to last, only what was appended or deleted
        since is written: the shards of deleted passages stay until `compact`. Everywhere else the passages
        are written without deleted ones, and another store that is there is replaced.

        Args:
            folder: The folder.
            max_shard_size: Bytes of memories in a shard, or a text such as "500MB".

        Raises:
            RuntimeError: If another writer is at work there, or has changed the store since this memory was
                loaded or saved.
        """
        digest, first = self._save(Path(folder), max_shard_size)
        self._hold([*self._shards[:first], *(shard.flat() for shard in self._shards[first:])])
        self._stored = Place(os.path.realpath(folder), digest, len(self._shards))
        self._entries = read_manifest(Path(folder))[0].shards

    def compact(self, max_shard_size: int | str = SHARD_SIZE) -> None:
        """Writes the stored memory anew without deleted passages, in full shards, and reads it from there.

        What was appended or deleted since it was saved is written with it. A process killed on the way leaves
        the old store. Who opened the old one before goes on reading it; its files lose their names.

        Args:
            max_shard_size: Bytes of memories in a shard, or a text such as "500MB".

        Raises:
            ValueError: If this memory was neither loaded from a folder nor saved to one.
            RuntimeError: As `save_pretrained`.
        """
        if self._stored is None:
            raise ValueError("This memory has no folder to compact: save it with `save_pretrained` first.")
        folder, source = Path(self._stored.folder), self._shards[0].memory.source
        self._save(folder, max_shard_size, anew=True)
        manifest, digest, shards = open_store(folder, False)
        self._hold(shards)
        self._stored = Place(self._stored.folder, digest, len(self._shards))
        self._entries = manifest.shards
        if source is not None and source.compress is not None:
            self.attach(source.compress, source.size)

    def _save(
        self, folder: Path, max_shard_size: int | str = SHARD_SIZE, anew: bool = False
    ) -> tuple[str, int]:
        """Writes the store; returns the SHA-256 of its manifest and the first shard written."""
        row_bytes = memory_bytes(self.stored_dtype, self._shape)
        rows_per_shard = rows_in(max_shard_size, row_bytes)
        with locked(folder):
            entries, first = self._kept(folder)
            if anew:
                entries, first = (), 0
            deleted = self._deleted_rows(first)
            unchanged = len(deleted) == sum(entry.rows - entry.live_rows for entry in entries)
            if unchanged and first == len(self._shards):
                return self._stored.digest, first
            sequence = ShardSequence(folder, entries, rows_per_shard, self._shape, self.stored_dtype)
            try:
                self._write_rows(sequence, first, max(1, min(COPY_ROWS, COPY_BYTES // max(1, row_bytes))))
                return commit(folder, self._manifest(sequence.bury(deleted))), first
            except BaseException:
                sequence.abort()
                raise

    def _kept(self, folder: Path) -> tuple[Sequence[ShardEntry], int]:
        """The store's shards in the folder that hold this memory's first shards, and how many those are."""
        if not (folder / MANIFEST).exists():
            return (), 0
        manifest, digest = read_manifest(folder)
        if self._stored is None or self._stored.folder != os.path.realpath(folder):
            return (), 0
        if self._stored.digest != digest:
            raise RuntimeError(
                f"The store in {folder} was changed by another writer since this memory was loaded or saved: "
                "load it again and append to that, or save to another folder."
            )
        return manifest.shards, self._stored.shards

    def _deleted_rows(self, shards: int) -> np.ndarray:
        """The deleted rows (d,) of the first shards, ascending, counted through them."""
        start, deleted = 0, [np.empty(0, np.int64)]
        for shard in self._shards[:shards]:
            rows = np.arange(len(shard.memory))
            if shard.kept is not None:
                deleted.append(start + np.setdiff1d(rows, shard.kept, assume_unique=True))
            start += len(rows)
        return np.concatenate(deleted)

    def _write_rows(self, sequence: ShardSequence, first: int, step: int) -> None:
        for shard in self._shards[first:]:
            for start in range(0, len(shard), step):
                rows = slice(start, min(len(shard), start + step))
                columns = {name: shard.column(name)[rows] for name in COLUMNS}
                sequence.write(shard.packed(rows), columns)

    def _manifest(self, shards: Sequence[ShardEntry]) -> Manifest:
        return make_manifest(shards, self._shape, self.stored_dtype, self.fingerprint, self.base)

    @classmethod
    def from_pretrained(
        cls: type[Memory],
        folder_or_repo_id: str | os.PathLike,
        fingerprint: str | None = None,
        verify: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | None = None,
    ) -> Memory:
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
        manifest, digest, shards = open_store(folder, verify, fingerprint)
        shape = (manifest.num_memory_tokens, manifest.hidden_size)
        memory = cls.__new__(cls)
        MemoryTable.__init__(memory, shards, shape, manifest.dtype, manifest.fingerprint, manifest.base)
        memory._stored = Place(os.path.realpath(folder), digest, len(shards))
        memory._entries = manifest.shards
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
