"""One shard of a store: memories in a safetensors file, read by memory map, and passages in a Parquet file.

Letters of the shapes: n memories of a shard, M memory tokens, H hidden width.
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

from .columns_clara import Selected, open_columns
from .passages_clara import COLUMNS, PassageWriter

TENSOR = "memory"
HEADER_BYTES = 512
CHECKED_ROWS = 1024
READ_BYTES = 1 << 22
HEADER_LIMIT = 100_000_000


@dataclass(frozen=True)
class Dtype:
    """A dtype of memories: torch's, safetensors' code, numpy's of the same width (it has no bfloat16)."""

    torch: torch.dtype
    code: str
    numpy: type


DTYPES = {
    "float32": Dtype(torch.float32, "F32", np.float32),
    "float16": Dtype(torch.float16, "F16", np.float16),
    "bfloat16": Dtype(torch.bfloat16, "BF16", np.uint16),
}


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype in the manifest.

    Raises:
        ValueError: If memories cannot have this dtype.
    """
    for name, known in DTYPES.items():
        if known.torch == dtype:
            return name
    raise ValueError(f"`memory` must be one of {', '.join(DTYPES)}, got {dtype}: convert it with .to().")


def check_memory(memory: Tensor) -> Tensor:
    """Checks memories (n, M, H) and returns them on the CPU, without a graph.

    Raises:
        ValueError: If the shape is not (n, M, H) with all of them at least 1, the dtype cannot be stored, or
            a memory holds NaN or an infinity (names its row).
    """
    if not isinstance(memory, Tensor) or memory.dim() != 3 or 0 in memory.shape:
        got = tuple(memory.shape) if isinstance(memory, Tensor) else type(memory).__name__
        raise ValueError(f"`memory` must be a tensor (N, M, H) of at least one document, got {got}.")
    dtype_name(memory.dtype)
    memory = memory.detach().cpu()
    for start in range(0, len(memory), CHECKED_ROWS):
        rows = memory[start : start + CHECKED_ROWS].flatten(1)
        finite = torch.isfinite(rows.amax(dim=1)) & torch.isfinite(rows.amin(dim=1))
        if not finite.all():
            row = start + int((~finite).nonzero()[0])
            raise ValueError(f"`memory[{row}]` holds NaN or an infinity: compress the document again.")
    return memory


class MemoryFile:
    """Memories (n, M, H) in a safetensors file: an index or slice brings only its rows into RAM."""

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: str) -> None:
        self._path, self._shape, self._dtype = path, shape, DTYPES[dtype]
        self._offset = _payload_offset(path, shape, self._dtype)
        self._map = self._open()

    def _open(self) -> np.memmap:
        return np.memmap(self._path, self._dtype.numpy, "r", self._offset, self._shape)

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        values = self._map[rows if isinstance(rows, slice) else rows.numpy()]
        return torch.from_numpy(np.array(values)).view(self._dtype.torch)

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_map"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._map = self._open()


def _payload_offset(path: Path, shape: tuple[int, int, int], dtype: Dtype) -> int:
    """Checks a safetensors header against what the file must hold; returns where the values start."""
    size = path.stat().st_size
    nbytes = int(np.dtype(dtype.numpy).itemsize) * shape[0] * shape[1] * shape[2]
    expected = {"dtype": dtype.code, "shape": list(shape), "data_offsets": [0, nbytes]}
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(size - 8, HEADER_LIMIT):
            raise ValueError(f"{path} is not a safetensors file: its header claims {length} of {size} bytes.")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a safetensors file: its header is not JSON.") from error
    got = header.get(TENSOR) if isinstance(header, dict) else header
    if got != expected:
        raise ValueError(
            f"{path} must hold `{TENSOR}` as {expected}, got {got}: copy or build the store again."
        )
    if size != 8 + length + nbytes:
        raise ValueError(
            f"{path} has {size} bytes but its header needs {8 + length + nbytes}: it was cut or altered."
        )
    return 8 + length


class ChosenMemory:
    """The memories of a shard at some rows, in their order; nothing is copied."""

    def __init__(self, memory: Tensor | MemoryFile, rows: np.ndarray) -> None:
        self._memory, self._rows = memory, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        rows = self._rows[rows if isinstance(rows, slice) else rows.numpy()]
        return self._memory[torch.from_numpy(rows)]


@dataclass(frozen=True)
class Shard:
    """Memories (n, M, H), in RAM or in a file, and the columns of their passages; some may be deleted.

    `memory` and `columns` hold n rows. `kept` (int64, ascending) are the rows that are not deleted, None if
    that is all; length, `read` and `column` count only these.
    """

    memory: Tensor | MemoryFile | ChosenMemory
    columns: Mapping[str, Sequence]
    kept: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.memory) if self.kept is None else len(self.kept)

    def read(self, rows: slice | Tensor) -> Tensor:
        """Memories of a slice of the kept rows, or at indices (k,) among them."""
        return (self.memory if self.kept is None else ChosenMemory(self.memory, self.kept))[rows]

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

    def flat(self) -> "Shard":
        """The kept rows as a shard of their own, in which none is deleted."""
        if self.kept is None:
            return self
        columns = {name: self.column(name) for name in self.columns}
        return Shard(ChosenMemory(self.memory, self.kept), columns)


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says of one file: its name, its size in bytes and its SHA-256."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest says of one shard: its files, the rows in them, and how many of those are live.

    `deleted` names the file that lists the rows which are not; None if all are.
    """

    memory: FileEntry
    texts: FileEntry
    deleted: FileEntry | None
    rows: int
    live_rows: int

    def files(self) -> tuple[FileEntry, ...]:
        """Every file of the shard."""
        return tuple(file for file in (self.memory, self.texts, self.deleted) if file is not None)


def open_shard(memory_path: Path, texts_path: Path, shape: tuple[int, int, int], dtype: str) -> Shard:
    """Opens the files of one shard of n = shape[0] memories; reads headers, no row.

    Raises:
        ValueError: If a file does not hold what the manifest says.
    """
    return Shard(MemoryFile(memory_path, shape, dtype), open_columns(texts_path, shape[0]))


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
    """Writes one shard as rows come, under temporary names; `close` names the files by content."""

    def __init__(self, folder: Path, number: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
        self.rows = 0
        self._folder, self._number, self._shape = folder, number, shape
        self._dtype = DTYPES[dtype_name(dtype)]
        self._temporary = (folder / f"memory-{number:05d}.tmp", folder / f"passages-{number:05d}.tmp")
        self._memory = self._temporary[0].open("wb")
        self._memory.write(bytes(HEADER_BYTES))
        self._passages = PassageWriter(self._temporary[1])

    def write(self, memory: Tensor, columns: Mapping[str, Sequence]) -> None:
        """Adds memories (n, M, H) and the columns of their passages."""
        values = memory.contiguous().view(torch.uint8).numpy()
        self._memory.write(values.data)
        self._passages.write({name: columns[name] for name in COLUMNS})
        self.rows += len(memory)

    def close(self) -> ShardEntry:
        """Completes both files on the disk and returns their manifest entry."""
        self._memory.seek(0)
        self._memory.write(self._header())
        self._memory.close()
        self._passages.close()
        memory = publish(self._temporary[0], f"memory-{self._number:05d}", "safetensors")
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

    def _header(self) -> bytes:
        nbytes = self._memory.seek(0, os.SEEK_END) - HEADER_BYTES
        self._memory.seek(0)
        tensor = {"dtype": self._dtype.code, "shape": [self.rows, *self._shape], "data_offsets": [0, nbytes]}
        text = json.dumps({TENSOR: tensor}, separators=(",", ":")).encode()
        return (HEADER_BYTES - 8).to_bytes(8, "little") + text.ljust(HEADER_BYTES - 8)
