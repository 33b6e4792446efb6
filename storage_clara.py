"""The folder of a stored corpus memory: safe paths, checks, one writer at a time, atomic commits.

A store is what its manifest names. Shards are complete and never change once they have a name; the manifest
is replaced last and at once, so a process killed at any moment leaves the old store or the new one.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from .manifest_clara import MANIFEST, Manifest, is_count, parse_manifest
from .recompute_clara import Recompressor
from .shards_clara import FileEntry, Shard, ShardEntry, ShardWriter, file_sha256, open_shard, sync
from .tombstones_clara import bury, read_tombstones

LOCK = ".corpus_memory.lock"
FULL_CHECK_BYTES = 1_000_000_000
FILE_PATTERNS = (
    MANIFEST,
    "memory-*.safetensors",
    "passages-*.parquet",
    "deleted-*.safetensors",
    "corpus_index.json",
    "index-*.faiss",
    "sketch-*.safetensors",
)
LEFTOVER = re.compile(r"(memory|passages|deleted)-\d{5,}(\.tmp|-[0-9a-f]{8}\.(safetensors|parquet))")
SIZE = re.compile(r"(\d+)\s*([KMGT]?)B", re.IGNORECASE)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def locate(folder: Path, name: str) -> Path:
    """The path of a store's file, which must really lie in the folder (or in the blobs of a Hub cache).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is a link to somewhere else.
    """
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the store is not complete; copy or build it again.")
    snapshots = folder.absolute().parent
    roots = [folder.resolve()]
    if snapshots.name == "snapshots":
        roots.append(snapshots.parent.resolve() / "blobs")
    if not any(path.resolve().is_relative_to(root) for root in roots):
        raise ValueError(
            f"{path} leads outside its folder to {path.resolve()}: refused; copy the file itself."
        )
    return path


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Reads the manifest of a store; also returns the SHA-256 of its bytes, by which a change is seen.

    Raises:
        FileNotFoundError: If the folder holds no manifest, also because a build did not finish.
        ValueError: If the manifest is damaged or of another version.
    """
    if not (folder / MANIFEST).is_file():
        unfinished = folder.is_dir() and any(LEFTOVER.fullmatch(path.name) for path in folder.iterdir())
        reason = (
            "the store is unfinished, its writer was stopped; build it again into the same folder, what is "
            "left there is removed first"
            if unfinished
            else "it is not a stored corpus memory; make one with `build_memory` and `save_pretrained`"
        )
        raise FileNotFoundError(f"{folder} holds no {MANIFEST}: {reason}.")
    content = locate(folder, MANIFEST).read_bytes()
    return parse_manifest(content, folder / MANIFEST), hashlib.sha256(content).hexdigest()


def open_store(
    folder: Path, verify: bool | None, fingerprint: str | None = None
) -> tuple[Manifest, str, list[Shard]]:
    """Opens a store: its manifest, the SHA-256 of that, its shards.

    Where a writer replaces the store in between, so that a file of the old is gone, the new one is opened.

    Args:
        folder: The store's folder.
        verify: As of `open_shards`.
        fingerprint: Who must have made the memories; None for anybody.

    Raises:
        FileNotFoundError: As `read_manifest` and `open_shards`.
        ValueError: As these, or if another compressor or base made the memories.
    """
    manifest, digest = read_manifest(folder)
    if fingerprint is not None and manifest.fingerprint != fingerprint:
        raise ValueError(
            f"The memories in {folder} were made by another compressor or base (fingerprint "
            f"{manifest.fingerprint}, expected {fingerprint}): build them again with this model, or load the "
            "model that made them."
        )
    try:
        return manifest, digest, open_shards(folder, manifest, verify)
    except FileNotFoundError:
        if read_manifest(folder)[1] == digest:
            raise
    return open_store(folder, verify, fingerprint)


def open_shards(folder: Path, manifest: Manifest, verify: bool | None) -> list[Shard]:
    """Opens every shard of a store. Sizes and headers are always checked.

    Args:
        folder: The store's folder.
        manifest: Its manifest.
        verify: Read all files and compare checksums. None: only if they have less than 1 GB together.

    Raises:
        FileNotFoundError: If a shard is missing.
        ValueError: If a shard was cut short, altered, or leads outside the folder.
    """
    if verify is None:
        verify = sum(file.bytes for entry in manifest.shards for file in entry.files()) < FULL_CHECK_BYTES
    shards, source = [], Recompressor()
    for entry in manifest.shards:
        memory = None if entry.memory is None else _checked(folder, entry.memory, verify)
        texts = _checked(folder, entry.texts, verify)
        shape = (entry.rows, manifest.num_memory_tokens, manifest.hidden_size)
        shard = open_shard(memory, texts, shape, manifest.dtype, verify, source)
        if entry.deleted is not None:
            kept = read_tombstones(_checked(folder, entry.deleted, True), entry)
            shard = replace(shard, kept=kept)
        shards.append(shard)
    return shards


def _checked(folder: Path, entry: FileEntry, verify: bool) -> Path:
    path = locate(folder, entry.file)
    found = path.stat().st_size
    if found != entry.bytes:
        raise ValueError(
            f"{path} has {found} bytes but the manifest says {entry.bytes}: it was cut short or replaced; "
            "copy or build the store again."
        )
    if verify and file_sha256(path) != entry.sha256:
        raise ValueError(
            f"{path} was altered (its SHA-256 is not the manifest's): copy or build the store again."
        )
    return path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder if need be and keeps other writers out while the block runs.

    The lock belongs to the process: one left by a dead process holds nobody up.

    Raises:
        RuntimeError: If another writer is at work there.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: give the path of a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise RuntimeError(
            f"Another writer is at work in {folder}: wait until it is done, or write to another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def commit(folder: Path, manifest: Manifest) -> str:
    """Puts a manifest in place, at once and lastingly, then removes files of ours that it does not name.

    Returns:
        The SHA-256 of the manifest's bytes.
    """
    content = manifest.to_bytes()
    sync(folder)
    temporary = folder / f"{MANIFEST}.tmp"
    temporary.write_bytes(content)
    sync(temporary)
    os.replace(temporary, folder / MANIFEST)
    sync(folder)
    clean(folder)
    return hashlib.sha256(content).hexdigest()


def clean(folder: Path) -> None:
    """Removes what writers left in the folder and its manifest does not name. The caller holds the lock."""
    shards = read_manifest(folder)[0].shards if (folder / MANIFEST).exists() else ()
    named = {file.file for entry in shards for file in entry.files()}
    for path in folder.iterdir():
        if path.name == f"{MANIFEST}.tmp" or (LEFTOVER.fullmatch(path.name) and path.name not in named):
            path.unlink()


class ShardSequence:
    """Writes rows into one shard after another.

    Args:
        folder: A locked folder. What an earlier writer left there unfinished is removed.
        kept: Shards of the store that is there, with which the new manifest begins.
        rows_per_shard: How many rows a shard takes.
        shape: (M, H).
        dtype: The format of the memories.
    """

    def __init__(
        self,
        folder: Path,
        kept: Sequence[ShardEntry],
        rows_per_shard: int,
        shape: tuple[int, int],
        dtype: str,
    ) -> None:
        self._entries = list(kept)
        self._folder, self._rows_per_shard = folder, rows_per_shard
        self._shape, self._dtype = shape, dtype
        self._open: ShardWriter | None = None
        clean(folder)

    def write(self, parts: Sequence[Tensor], columns: Mapping[str, Sequence]) -> None:
        """Adds n packed memories and the columns of their passages."""
        start, rows = 0, len(columns["text"])
        while start < rows:
            if self._open is None:
                self._open = ShardWriter(self._folder, len(self._entries), self._shape, self._dtype)
            stop = min(rows, start + self._rows_per_shard - self._open.rows)
            part = {name: values[start:stop] for name, values in columns.items()}
            self._open.write([tensor[start:stop] for tensor in parts], part)
            start = stop
            if self._open.rows == self._rows_per_shard:
                self.close()

    def close(self) -> tuple[ShardEntry, ...]:
        """Completes the shard that is open and returns the entries of all."""
        if self._open is not None:
            self._entries.append(self._open.close())
            self._open = None
        return tuple(self._entries)

    def bury(self, deleted: np.ndarray) -> tuple[ShardEntry, ...]:
        """Completes the open shard and marks the deleted rows, counted through all; returns the entries."""
        return tuple(bury(self._folder, self.close(), deleted))

    def abort(self) -> None:
        """Removes what was written since the last commit."""
        try:
            if self._open is not None:
                self._open.abort()
        finally:
            clean(self._folder)


def rows_in(size: int | str, row_bytes: int) -> int:
    """How many rows of `row_bytes` fit in a shard of `size`, bytes or a text such as "500MB"; at least 1."""
    match = SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    nbytes = int(match[1]) * UNITS[match[2].upper()] if match else size
    if not is_count(nbytes):
        raise ValueError(f"`max_shard_size` must be bytes above 0 or a text such as '500MB', got {size!r}.")
    return max(1, nbytes // max(1, row_bytes))
