"""Building the shards of a plan, each in a folder of its own, and joining them into a store.

A shard is done when its `shard.json` is there. Killed at any moment, a build goes on where it stopped; the
store appears at once, when all shards are done.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ...columns_clara import arrow_chunks, open_columns
from ...documents_clara import to_passages
from ...formats_clara import pack
from ...ids_clara import IdSet
from ...manifest_clara import make_manifest
from ...passages_clara import check_passages
from ...recompute_clara import RECOMPUTE
from ...shards_clara import FileEntry, ShardEntry, ShardWriter
from ...storage_clara import commit, locked
from .plan import Plan, read_plan, shard_documents, shard_length

BUILD, DONE, PROGRESS = "build", "shard.json", "progress"
BATCHES_PER_CHUNK = 8


def shard_folder(output: Path, shard: int) -> Path:
    """Where one shard is built."""
    return output / BUILD / f"{shard:05d}"


def is_done(output: Path, shard: int) -> bool:
    """Whether a shard is complete."""
    return (shard_folder(output, shard) / DONE).is_file()


def count_done(output: Path, plan: Plan) -> int:
    """How many documents are compressed, unfinished shards included."""
    return sum(_count(output, plan, shard) for shard in range(plan.num_shards))


def _count(output: Path, plan: Plan, shard: int) -> int:
    if is_done(output, shard):
        return shard_length(plan.corpus, shard)
    progress = shard_folder(output, shard) / PROGRESS
    return progress.stat().st_size if progress.is_file() else 0


def discard(output: Path) -> None:
    """Removes what an unfinished build has left, if anything. The caller holds the lock of `output`.

    Raises:
        RuntimeError: somebody is still at work on a shard; nothing is removed then.
    """
    for folder in (output / BUILD).glob("[0-9]*"):
        with locked(folder):
            pass
    shutil.rmtree(output / BUILD, ignore_errors=True)


def build_shards(output: Path, shards: Iterable[int], open_model: Callable[[], Any]) -> None:
    """Builds those of some shards that are not done, with the plan's number of threads.

    Args:
        output: the folder of the store, where a plan lies.
        shards: their numbers.
        open_model: opens the model; equal ones open it once in a process.

    Raises:
        ValueError: the model is not the one of the plan, or as `build_shard`.
    """
    plan = read_plan(output / BUILD)
    waiting = [shard for shard in shards if not is_done(output, shard)]
    if not waiting:
        return
    model = _opened(open_model)
    if model.memory_fingerprint() != plan.fingerprint:
        raise ValueError("The model is not the one with which the build was begun: give `--model` as then.")
    with _threads(plan.threads):
        for shard in waiting:
            build_shard(output, plan, shard, model)


@lru_cache(maxsize=1)
def _opened(open_model: Callable[[], Any]) -> Any:
    return open_model()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build_shard(output: Path, plan: Plan, shard: int, model: Any) -> None:
    """Compresses the documents of one shard, unless it is done.

    Args:
        output: the folder of the store.
        plan: the plan.
        shard: its number.
        model: the model that the plan names.

    Raises:
        ValueError: a document is malformed, or a file changed since the plan was made.
        RuntimeError: another process is at work on the shard.
    """
    folder = shard_folder(output, shard)
    if is_done(output, shard):
        return
    with locked(folder):
        (folder / PROGRESS).write_bytes(b"")
        writer = ShardWriter(folder, shard, tuple(plan.shape), plan.dtype)
        try:
            for chunk in chunks(shard_documents(plan.corpus, shard), BATCHES_PER_CHUNK * plan.batch_size):
                _write(writer, chunk, plan, model)
                with (folder / PROGRESS).open("ab") as progress:
                    progress.write(b"." * len(chunk))
            entry = writer.close()
        except BaseException:
            writer.abort()
            raise
        temporary = folder / f"{DONE}.tmp"
        temporary.write_text(json.dumps(asdict(entry)), encoding="utf-8")
        os.replace(temporary, folder / DONE)


def _write(writer: ShardWriter, chunk: list[dict[str, Any]], plan: Plan, model: Any) -> None:
    passages = to_passages(chunk, model.processor.split_documents)
    columns = check_passages(
        len(passages.texts),
        passages.texts,
        passages.document_ids,
        passages.metadata,
        passages.parents,
        passages.orders,
    )
    parts: tuple[Any, ...] = ()
    if plan.dtype != RECOMPUTE:
        parts = pack(model.compress_texts(passages.texts, plan.batch_size), plan.dtype)
    writer.write(parts, columns)


def join(output: Path) -> int:
    """Makes the store of the finished shards and removes the folder of the build.

    The caller holds the lock of `output`.

    Returns:
        The number of passages.

    Raises:
        FileNotFoundError: a shard is not done.
        ValueError: an id of a passage occurs twice.
    """
    plan = read_plan(output / BUILD)
    missing = [shard for shard in range(plan.num_shards) if not is_done(output, shard)]
    if missing:
        raise FileNotFoundError(f"{len(missing)} shards are not done, first {missing[0]}: build them first.")
    entries, seen = [], IdSet()
    for shard in range(plan.num_shards):
        entry = _read_entry(shard_folder(output, shard) / DONE)
        for file in entry.files():
            if not (output / file.file).exists():
                os.replace(shard_folder(output, shard) / file.file, output / file.file)
        _check_ids(output, entry, seen)
        entries.append(entry)
    manifest = make_manifest(entries, tuple(plan.shape), plan.dtype, plan.fingerprint, plan.base)
    commit(output, manifest)
    shutil.rmtree(output / BUILD)
    return manifest.num_passages


def _read_entry(path: Path) -> ShardEntry:
    fields = json.loads(path.read_text(encoding="utf-8"))
    files = {name: FileEntry(**fields[name]) for name in ("memory", "texts") if fields[name] is not None}
    return ShardEntry(**{**fields, **files})


def _check_ids(output: Path, entry: ShardEntry, seen: IdSet) -> None:
    column = open_columns(output / entry.texts.file, entry.rows)["document_id"]
    for ids in arrow_chunks(column):
        for document_id in ids.to_pylist():
            if document_id in seen:
                raise ValueError(f"The id {document_id!r} of a passage occurs twice: rename the document.")
            seen.update([document_id])


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive lists of at most `size` items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
