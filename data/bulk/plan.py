"""The plan of a bulk build: which documents make which shard, and with what; written before any work.

The plan alone decides the bytes of the store. The number of workers is no part of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from ..document_ids import DocumentIds
from ..documents import find_files, read_files
from ..skipped import Skipped

PLAN = "plan.json"
SMALLEST_SHARD = 4096
MOST_SHARDS = 256


@dataclass(frozen=True)
class Corpus:
    """The documents of a build, read once from end to end and found sound.

    Attributes:
        files: `[path, name, bytes]` of every file, in the order of reading.
        documents: how many documents there are.
        text_bytes: bytes of their texts in UTF-8.
        starts: for each shard the number of its first file and the document there that it begins with.
        shard_size: documents in a shard; the last one may have fewer.
    """

    files: list[list[Any]]
    documents: int
    text_bytes: int
    starts: list[list[int]]
    shard_size: int


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes of a store.

    Attributes:
        corpus: the documents.
        fingerprint: identity of the compressor and base.
        base: name and revision of the base model.
        shape: `[M, H]`, memory tokens and width.
        dtype: format of the memories.
        batch_size: passages compressed at once.
        threads: threads of each worker.
        device: kind of device, such as cpu or cuda.
    """

    corpus: Corpus
    fingerprint: str
    base: dict[str, Any]
    shape: list[int]
    dtype: str
    batch_size: int
    threads: int
    device: str

    @property
    def num_shards(self) -> int:
        """How many shards the store gets."""
        return len(self.corpus.starts)


def survey(
    paths: Sequence[str | Path],
    shard_size: int | None = None,
    tick: Callable[[int], Any] | None = None,
    skipped: Skipped | None = None,
) -> Corpus:
    """Reads all documents once, so that a bad row or an id that occurs twice is met before any work.

    Args:
        paths: files and folders; see `read_documents`.
        shard_size: documents in a shard. Default: 4096, or more so that there are at most 256 shards.
        tick: called with 1 for every document.
        skipped: takes what is left out.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a file or row is malformed, an id occurs twice, or there is no document.
    """
    if shard_size is not None and shard_size < 1:
        raise ValueError(f"`shard_size` must be at least 1, got {shard_size}.")
    skipped = Skipped() if skipped is None else skipped
    files, seen, text_bytes, places = find_files(paths, skipped), DocumentIds(), 0, []
    for number, (path, name) in enumerate(files):
        for row, document in enumerate(read_files([(path, name)], skipped)):
            seen.add(document["id"], str(path))
            text_bytes += len(document["text"].encode("utf-8", "replace"))
            if (len(seen) - 1) % (shard_size or SMALLEST_SHARD) == 0:
                places.append((len(seen) - 1, number, row))
            if tick is not None:
                tick(1)
    if not len(seen):
        raise ValueError(f"The files hold no document: {skipped.told() or 'they have no rows'}.")
    seen.check()
    size = shard_size or SMALLEST_SHARD * max(1, -(-len(seen) // (SMALLEST_SHARD * MOST_SHARDS)))
    starts = [[number, row] for index, number, row in places if index % size == 0]
    sizes = [[str(path.absolute()), name, path.stat().st_size] for path, name in files]
    return Corpus(sizes, len(seen), text_bytes, starts, size)


def shard_documents(corpus: Corpus, shard: int) -> Iterator[dict[str, Any]]:
    """Reads the documents of one shard.

    Raises:
        ValueError: a file has another size than when the build was planned.
    """
    first, skipped = corpus.starts[shard]
    files = [(Path(path), name) for path, name, _ in corpus.files[first:]]
    for path, _, size in corpus.files[first:]:
        if os.path.getsize(path) != size:
            raise ValueError(f"{path} has changed since the build was planned: begin it again.")
    return islice(read_files(files), skipped, skipped + corpus.shard_size)


def shard_length(corpus: Corpus, shard: int) -> int:
    """How many documents a shard holds."""
    return min(corpus.shard_size, corpus.documents - shard * corpus.shard_size)


def plan_for(model: Any, corpus: Corpus, dtype: str, batch_size: int, threads: int) -> Plan:
    """The plan of a build with a model: identity and shape of its memories, and its kind of device."""
    return Plan(
        corpus,
        model.memory_fingerprint(),
        model.memory_base(),
        list(model.memory_shape()),
        dtype,
        batch_size,
        threads,
        model.device.type,
    )


def begin(folder: Path, plan: Plan) -> None:
    """Writes the plan, at once, or checks that the folder was begun with the same one.

    Raises:
        ValueError: the folder was begun with another plan; names what differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PLAN).exists():
        temporary = folder / f"{PLAN}.tmp"
        temporary.write_text(json.dumps(asdict(plan)), encoding="utf-8")
        os.replace(temporary, folder / PLAN)
        return
    there = read_plan(folder)
    names = [field.name for field in fields(Plan)]
    changed = [name for name in names if getattr(there, name) != getattr(plan, name)]
    if changed:
        raise ValueError(
            f"The build in {folder} was begun with another {', '.join(changed)}: finish it as it was begun, "
            "or begin again with `--restart`."
        )


def read_plan(folder: Path) -> Plan:
    """Reads the plan of a build that was begun."""
    content = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    return Plan(**{**content, "corpus": Corpus(**content["corpus"])})
