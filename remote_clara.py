"""A store in a shared folder or object storage, read through fsspec: rows and row groups by byte range.

Any address that fsspec knows works: a path, `s3://bucket/store`, `memory://store`, … Sizes and headers are
checked when the store is opened; the checksums of blocks are not compared, since a row is less than a block.

Letters of the shapes: n memories of a shard, k rows asked for, M memory tokens, H hidden width.
"""

import importlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from .columns_clara import ParquetColumn
from .formats_clara import KINDS, parts_of, unpack
from .manifest_clara import MANIFEST, parse_manifest
from .memory_clara import CorpusMemory
from .passages_clara import COLUMNS
from .recompute_clara import Recompressor, TextMemory
from .rows_clara import HEADER_LIMIT, header_of
from .shards_clara import FileEntry, Shard, ShardEntry
from .table_clara import MemoryTable
from .tombstones_clara import read_tombstones


@dataclass(frozen=True)
class RemoteFile:
    """A file of a file system of fsspec."""

    system: Any
    path: str

    def __str__(self) -> str:
        return self.path

    def read_bytes(self) -> bytes:
        """All bytes.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        return self.system.cat_file(self.path)

    def open(self) -> pq.ParquetFile:
        """The file as Parquet, of which only what is asked for is read."""
        return pq.ParquetFile(self.system.open(self.path, "rb"), page_checksum_verification=True)

    def check_size(self, entry: FileEntry) -> None:
        """Raises ValueError if the manifest names another size."""
        size = self.system.size(self.path)
        if size != entry.bytes:
            raise ValueError(
                f"{self} has {size} bytes but the manifest says {entry.bytes}: it was cut short or replaced; "
                "copy the store again."
            )


class RemoteRows:
    """Memories (n, M, H) of one shard.

    Args:
        file: A safetensors file as `ShardWriter` writes it.
        shape: (n, M, H).
        dtype: The format.

    Raises:
        ValueError: If the header is not that of such a file.
    """

    source: Recompressor | None = None

    def __init__(self, file: RemoteFile, shape: tuple[int, int, int], dtype: str) -> None:
        self.dtype, self._file, self._rows, self._shape = dtype, file, shape[0], tuple(shape[1:])
        length = int.from_bytes(file.system.cat_file(file.path, start=0, end=8), "little")
        if not 0 < length <= HEADER_LIMIT:
            raise ValueError(f"{file} is not a safetensors file: its header claims {length} bytes.")
        try:
            header = json.loads(file.system.cat_file(file.path, start=8, end=8 + length))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is not a safetensors file: its header is not JSON.") from error
        if header != header_of(parts_of(dtype, self._shape), self._rows):
            raise ValueError(f"{file} does not hold {shape} memories in {dtype}: copy the store again.")
        self._offset = 8 + length

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return unpack(self.packed(rows), self.dtype)

    def packed(self, rows: slice | Tensor) -> tuple[Tensor, ...]:
        """The tensors stored for a slice of step 1 or for indices (k,); one range for each row or slice."""
        if isinstance(rows, slice):
            first, stop, _ = rows.indices(self._rows)
            spans, count = np.array([[first, max(first, stop)]]), max(0, stop - first)
        else:
            spans, count = np.stack([rows.numpy(), rows.numpy() + 1], axis=1), len(rows)
        parts, start = [], self._offset
        for part in parts_of(self.dtype, self._shape):
            content = self._read(start + spans * part.row_bytes) if count else b""
            values = np.frombuffer(bytearray(content), KINDS[part.code][1]).reshape(count, *part.shape)
            parts.append(torch.from_numpy(values).view(KINDS[part.code][0]))
            start += self._rows * part.row_bytes
        return tuple(parts)

    def _read(self, spans: np.ndarray) -> bytes:
        starts, ends = spans.T.tolist()
        paths = [self._file.path] * len(starts)
        return b"".join(self._file.system.cat_ranges(paths, starts, ends, on_error="raise"))


def open_remote(address: str, fingerprint: str | None = None, **options: Any) -> CorpusMemory:
    """Opens a store wherever fsspec finds it; nothing is written there.

    Args:
        address: Of the folder.
        fingerprint: Identity of the compressor and base that must have made the memories. None: any.
        **options: Of the file system, such as keys.

    Raises:
        FileNotFoundError: If there is no store or a file is missing.
        ValueError: If another compressor or base made it, or a file has another size or header.
    """
    system, root = importlib.import_module("fsspec").core.url_to_fs(address, **options)
    content = RemoteFile(system, f"{root}/{MANIFEST}").read_bytes()
    manifest = parse_manifest(content, f"{address}/{MANIFEST}")
    if fingerprint is not None and manifest.fingerprint != fingerprint:
        raise ValueError(
            f"The memories in {address} were made by another compressor or base (fingerprint "
            f"{manifest.fingerprint}, expected {fingerprint}): build them again with this model."
        )
    shape = (manifest.num_memory_tokens, manifest.hidden_size)
    source = Recompressor()
    shards = [_open_shard(system, root, entry, shape, manifest.dtype, source) for entry in manifest.shards]
    memory = CorpusMemory.__new__(CorpusMemory)
    MemoryTable.__init__(memory, shards, shape, manifest.dtype, manifest.fingerprint, manifest.base)
    memory._entries = manifest.shards
    return memory


def _open_shard(
    system: Any, root: str, entry: ShardEntry, shape: tuple[int, int], dtype: str, source: Recompressor
) -> Shard:
    for file in entry.files():
        RemoteFile(system, f"{root}/{file.file}").check_size(file)
    texts = RemoteFile(system, f"{root}/{entry.texts.file}")
    with texts.open() as table:
        groups = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    if sum(groups) != entry.rows:
        raise ValueError(f"{texts} has {sum(groups)} passages but the manifest says {entry.rows}.")
    columns = {name: ParquetColumn(texts, name, groups) for name in COLUMNS}
    if entry.memory is None:
        rows = TextMemory(columns["text"], shape, source)
    else:
        rows = RemoteRows(RemoteFile(system, f"{root}/{entry.memory.file}"), (entry.rows, *shape), dtype)
    kept = None
    if entry.deleted is not None:
        kept = read_tombstones(RemoteFile(system, f"{root}/{entry.deleted.file}"), entry)
    return Shard(rows, columns, kept)
