"""One shard of a store: memories in a safetensors file and passages in a Parquet file, some rows deleted.

Letters of the shapes: n memories of a shard, k rows asked for, M memory tokens, H hidden width.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .blocks_clara import BlockChecksums, write_checked
from .columns_clara import Selected, open_columns
from .formats_clara import parts_of
from .passages_clara import COLUMNS, PassageWriter
from .recompute_clara import RECOMPUTE, Recompressor, TextMemory
from .rows_clara import HEADER_BYTES, ChosenMemory, MemoryFile, PackedMemory, header_of

READ_BYTES = 1 << 22
COPIED_ROWS = 1024


@dataclass(frozen=True)
class Shard:
    """Memories (n, M, H), in RAM or in a file, and the columns of their passages; some may be deleted.

    `memory` and `columns` hold n rows. `kept` (int64, ascending) are the rows that are not deleted, None if
    that is all; length, `read` and `column` count only these.
    """

    memory: PackedMemory | MemoryFile | TextMemory | ChosenMemory
    columns: Mapping[str, Sequence]
    kept: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.memory) if self.kept is None else len(self.kept)

    def read(self, rows: slice | Tensor) -> Tensor:
        """Memories of a slice of the kept rows, or at indices (k,) among them."""
        return self._live()[rows]

    def packed(self, rows: slice | Tensor) -> tuple[Tensor, ...]:
        """The stored tensors of the same rows."""
        return self._live().packed(rows)

    def _live(self) -> PackedMemory | MemoryFile | ChosenMemory:
        return self.memory if self.kept is None else ChosenMemory(self.memory, self.kept)

    def column(self, name: str) -> Sequence:
        """One column of the kept rows."""
        return self.columns[name] if self.kept is None else Selected(self.columns[name], self.kept)

    def places(self, rows: Tensor, first: int) -> Tensor:
        """The places (k,) of rows (k,) among the kept ones, counted from `first`; -1 for deleted rows."""
        if self.kept is None:
            return rows + first
        kept = torch.from_numpy(self.kept)
        found = torch.searchsorted(kept, rows)
        there = kept[found.clamp(max=len(kept) - 1)] == rows if len(kept) else rows < 0
        return torch.where(there, found + first, -1)

    def without(self, deleted: np.ndarray) -> "Shard":
        """The shard without some more rows: a mask (length of this shard,) of what goes."""
        kept = np.arange(len(self.memory)) if self.kept is None else self.kept
        return self if not deleted.any() else replace(self, kept=kept[~deleted])

    def converted(self, dtype: str) -> "Shard":
        """The kept rows in RAM, in another format of memories."""
        if dtype == RECOMPUTE:
            raise ValueError("`other` stores memories, this one texts alone: build `other` as recompute too.")
        starts = range(0, len(self), COPIED_ROWS)
        pieces = (self.read(slice(start, min(len(self), start + COPIED_ROWS))) for start in starts)
        memory = PackedMemory.joined(pieces, dtype)
        return Shard(memory, {name: list(self.column(name)) for name in self.columns})

    def flat(self) -> "Shard":
        """The kept rows as a shard of their own, in which none is deleted."""
        if self.kept is None:
            return self
        return Shard(self._live(), {name: self.column(name) for name in self.columns})


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says of one file: its name, its size in bytes and its SHA-256."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest says of one shard: its files, the rows in them, and how many of those are live.

    `memory` is None where texts alone are stored. `deleted` names the file that lists the rows which are not
    live; None if all are.
    """

    memory: FileEntry | None
    texts: FileEntry
    deleted: FileEntry | None
    rows: int
    live_rows: int

    def files(self) -> tuple[FileEntry, ...]:
        """Every file of the shard."""
        return tuple(file for file in (self.memory, self.texts, self.deleted) if file is not None)


def open_shard(
    memory_path: Path | None,
    texts_path: Path,
    shape: tuple[int, int, int],
    dtype: str,
    checked: bool = False,
    source: Recompressor | None = None,
) -> Shard:
    """Opens the files of one shard of n = shape[0] memories; reads headers, no row.

    Args:
        memory_path: The memories; None where texts alone are stored.
        texts_path: The passages.
        shape: (n, M, H).
        dtype: The format of the memories.
        checked: Whether the files were compared with their checksums already.
        source: What compresses the texts where they alone are stored.

    Raises:
        ValueError: If a file does not hold what the manifest says.
    """
    columns = open_columns(texts_path, shape[0])
    if memory_path is None:
        return Shard(TextMemory(columns["text"], shape[1:], source), columns)
    return Shard(MemoryFile(memory_path, shape, dtype, checked), columns)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Waits until a file's bytes, or on POSIX a folder's names, are on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(path: Path, stem: str, suffix: str) -> FileEntry:
    """Gives a finished file the name `{stem}-{digest}.{suffix}`, once its bytes are on the disk."""
    sync(path)
    digest = file_sha256(path)
    target = path.parent / f"{stem}-{digest[:8]}.{suffix}"
    os.replace(path, target)
    return FileEntry(target.name, target.stat().st_size, digest)


class ShardWriter:
    """Writes one shard as rows come, under temporary names; `close` names the files by content.

    Args:
        folder: Where the files go.
        number: The shard's number in its store.
        shape: (M, H).
        dtype: The format of the memories.
    """

    def __init__(self, folder: Path, number: int, shape: tuple[int, int], dtype: str) -> None:
        self.rows = 0
        self._number, self._parts = number, parts_of(dtype, shape)
        self._waiting: list[list[Tensor]] = [[] for _ in self._parts[1:]]
        self._checksums = BlockChecksums()
        self._temporary = (folder / f"memory-{number:05d}.tmp", folder / f"passages-{number:05d}.tmp")
        self._memory = self._temporary[0].open("wb")
        self._memory.write(bytes(HEADER_BYTES))
        self._passages = PassageWriter(self._temporary[1])

    def write(self, parts: Sequence[Tensor], columns: Mapping[str, Sequence]) -> None:
        """Adds memories, packed into the tensors of the format, and the columns of their passages."""
        for part in parts[:1]:
            write_checked(self._memory, _bytes_of(part), self._checksums)
        for waiting, part in zip(self._waiting, parts[1:], strict=True):
            waiting.append(part.clone())
        self._passages.write({name: columns[name] for name in COLUMNS})
        self.rows += len(columns["text"])

    def close(self) -> ShardEntry:
        """Completes both files on the disk and returns their manifest entry."""
        for part in self._waiting:
            write_checked(self._memory, _bytes_of(torch.cat(part)), self._checksums)
        self._memory.write(self._checksums.values().data)
        self._memory.seek(0)
        text = json.dumps(header_of(self._parts, self.rows), separators=(",", ":")).encode()
        self._memory.write((HEADER_BYTES - 8).to_bytes(8, "little") + text.ljust(HEADER_BYTES - 8))
        self._memory.close()
        self._passages.close()
        memory = None
        if self._parts:
            memory = publish(self._temporary[0], f"memory-{self._number:05d}", "safetensors")
        else:
            self._temporary[0].unlink()
        texts = publish(self._temporary[1], f"passages-{self._number:05d}", "parquet")
        return ShardEntry(memory, texts, None, self.rows, self.rows)

    def abort(self) -> None:
        """Closes and removes the temporary files."""
        try:
            with closing(self._memory):
                self._passages.close(keep=False)
        finally:
            for path in self._temporary:
                path.unlink(missing_ok=True)


def _bytes_of(values: Tensor) -> memoryview:
    return values.contiguous().view(torch.uint8).numpy().data
