"""Deleted rows of stored shards: small safetensors files that list them, and the search for rows by id."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from .columns_clara import arrow_chunks
from .passages_clara import check_strings
from .shards_clara import FileEntry, Shard, ShardEntry, publish

TENSOR = "deleted"


def write_tombstones(folder: Path, number: int, rows: np.ndarray) -> FileEntry:
    """Writes the deleted rows (d,) of shard `number`, ascending."""
    path = folder / f"deleted-{number:05d}.tmp"
    path.write_bytes(save({TENSOR: torch.from_numpy(rows.astype(np.int64))}))
    return publish(path, f"deleted-{number:05d}", "safetensors")


def read_tombstones(path: Path, entry: ShardEntry) -> np.ndarray:
    """Reads which rows of a shard are kept, (live_rows,) int64, ascending.

    Raises:
        ValueError: If the file does not list as many rows of the shard as the manifest says.
    """
    try:
        rows = load(path.read_bytes())[TENSOR].numpy()
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is not a list of deleted rows ({error}): copy the store again.") from error
    count = entry.rows - entry.live_rows
    ascending = rows.dtype == np.int64 and rows.shape == (count,) and (np.diff(rows) > 0).all()
    if not ascending or rows[0] < 0 or rows[-1] >= entry.rows:
        raise ValueError(
            f"{path} must list {count} different rows from 0 to {entry.rows - 1}, ascending: copy the store "
            "again."
        )
    return np.setdiff1d(np.arange(entry.rows), rows, assume_unique=True)


def bury(folder: Path, entries: Sequence[ShardEntry], deleted: np.ndarray) -> list[ShardEntry]:
    """Writes the tombstones of a store's shards where rows were deleted since they were written.

    Args:
        folder: The store's folder, locked.
        entries: Its shards.
        deleted: All deleted rows (d,), ascending, counted through the shards, earlier ones included.

    Returns:
        The entries, with the new files.
    """
    start, buried = 0, []
    for number, entry in enumerate(entries):
        first, last = np.searchsorted(deleted, [start, start + entry.rows])
        if last - first > entry.rows - entry.live_rows:
            file = write_tombstones(folder, number, deleted[first:last] - start)
            entry = replace(entry, deleted=file, live_rows=entry.rows - int(last - first))
        buried.append(entry)
        start += entry.rows
    return buried


def first_common(shards: Sequence[Shard], wanted: pa.Array) -> str | None:
    """The first id of the shards that is among `wanted`, or None; reads ids only."""
    values = wanted.cast(pa.large_string())
    for shard in shards:
        for chunk in arrow_chunks(shard.column("document_id")):
            ids = chunk.cast(pa.large_string())
            hits = ids.filter(pc.is_in(ids, value_set=values))
            if len(hits):
                return hits[0].as_py()
    return None


def find_passages(shards: Sequence[Shard], document_ids: Sequence[str]) -> list[np.ndarray]:
    """Finds passages by their id or that of the document they were cut from; reads ids only, shard by shard.

    Returns:
        For every shard a mask (length of the shard,) of the passages found.

    Raises:
        ValueError: If `document_ids` is one string or an id is not there; names up to three.
    """
    if isinstance(document_ids, str):
        raise ValueError(f"`document_ids` must be a list of ids, got one string: [{document_ids!r}].")
    wanted = pa.array(dict.fromkeys(check_strings("document_ids", document_ids)), pa.large_string())
    masks, found = [], set()
    for shard in shards:
        mask = np.zeros(len(shard), bool)
        for name in ("document_id", "parent"):
            start = 0
            for chunk in arrow_chunks(shard.column(name)):
                ids = chunk.cast(pa.large_string())
                hits = pc.is_in(ids, value_set=wanted)
                found.update(ids.filter(hits).to_pylist())
                mask[start : start + len(ids)] |= hits.to_numpy(zero_copy_only=False)
                start += len(ids)
        masks.append(mask)
    missing = [document_id for document_id in wanted.to_pylist() if document_id not in found]
    if missing:
        shown = ", ".join(map(repr, missing[:3])) + (", …" if len(missing) > 3 else "")
        raise ValueError(f"`document_ids`: {shown} not in this memory ({len(missing)} in all).")
    return masks
