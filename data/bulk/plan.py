"""The plan of a bulk build: which documents make which part, and with what; written before any work.

The plan alone decides the rows of the store. The number of workers is no part of it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from ...processing_clara import OURS, check_parts, read_fields
from ...store.build import BuildPlan, decode_fields, encode_fields, file_facts
from ...store.schema import merge_fields
from ..documents import find_files, read_files
from ..skipped import Skipped

SMALLEST_PART = 4096
MOST_PARTS = 256
MERGED_AT_ONCE = 1000


@dataclass(frozen=True)
class Corpus:
    """The documents of a build, read once from end to end and found sound."""

    files: list[dict[str, Any]]  # `path`, `name`, `bytes` and `sha256` of every file, in the order of reading
    documents: int
    text_bytes: int  # bytes of their texts in UTF-8
    starts: list[list[int]]  # for each part its first file, and the document there that it begins with
    part_size: int  # documents in a part; the last one may have fewer
    fields: str  # the fields of their metadata, as `encode_fields` gives them


def survey(
    paths: Sequence[str | Path],
    part_size: int | None = None,
    tick: Callable[[int], Any] | None = None,
    skipped: Skipped | None = None,
) -> Corpus:
    """Reads all documents once, so that a bad row or an id that occurs twice is met before any work.

    Args:
        paths: files and folders; see `read_documents`.
        part_size: documents in a part. Default: 4096, or more so that there are at most 256 parts.
        tick: called with 1 for every document.
        skipped: takes what is left out.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a file or row is malformed, an id occurs twice, or there is no document.
    """
    if part_size is not None and part_size < 1:
        raise ValueError(f"`part_size` must be at least 1, got {part_size}.")
    skipped = Skipped() if skipped is None else skipped
    files, text_bytes, places = find_files(paths, skipped), 0, []
    seen: dict[str, Path] = {}
    facts = [{**file_facts(path.absolute()), "name": name} for path, name in files]
    fields, waiting = decode_fields(""), []
    for number, (path, name) in enumerate(files):
        for row, document in enumerate(read_files([(path, name)], skipped)):
            _add_id(seen, document["id"], path)
            text_bytes += len(document["text"].encode("utf-8", "replace"))
            waiting.append(metadata_of(document))
            if len(waiting) == MERGED_AT_ONCE:
                fields, waiting = merge_fields(fields, waiting), []
            if (len(seen) - 1) % (part_size or SMALLEST_PART) == 0:
                places.append((len(seen) - 1, number, row))
            if tick is not None:
                tick(1)
    if not seen:
        raise ValueError(f"The files hold no document: {skipped.told() or 'they have no rows'}.")
    check_parts(seen)
    size = part_size or SMALLEST_PART * max(1, -(-len(seen) // (SMALLEST_PART * MOST_PARTS)))
    starts = [[number, row] for index, number, row in places if index % size == 0]
    return Corpus(facts, len(seen), text_bytes, starts, size, encode_fields(merge_fields(fields, waiting)))


def _add_id(seen: dict[str, Path], document_id: str, file: Path) -> None:
    if document_id in seen:
        raise ValueError(f"{file}: the id {document_id!r} occurs twice: ids must be unique.")
    seen[document_id] = file


def metadata_of(document: dict[str, Any]) -> dict[str, Any]:
    """The metadata that the passages of a document may have."""
    fields = read_fields(document)
    kept = {key: value for key, value in fields.items() if key not in OURS}
    if fields.get("title"):
        kept["title"] = fields["title"]
    return {**kept, "section": ""} if fields.get("sections") else kept


def part_documents(corpus: Corpus, part: int) -> Iterator[dict[str, Any]]:
    """Reads the documents of one part; a ValueError if a file was edited since the build was planned."""
    first, skipped = corpus.starts[part]
    last = corpus.starts[part + 1][0] if part + 1 < len(corpus.starts) else len(corpus.files) - 1
    for file in corpus.files[first : last + 1]:
        state = os.stat(file["path"])
        if state.st_size != file["bytes"] or _digest(file["path"], state.st_mtime_ns) != file["sha256"]:
            raise ValueError(f"{file['path']} has changed since the build was planned: begin it again.")
    files = [(Path(file["path"]), file["name"]) for file in corpus.files[first:]]
    return islice(read_files(files), skipped, skipped + corpus.part_size)


@lru_cache(maxsize=4096)
def _digest(path: str, _: int) -> str:
    """A file's checksum; its bytes are read once in a process, unless written to."""
    return file_facts(path)["sha256"]


def part_length(corpus: Corpus, part: int) -> int:
    """How many documents a part holds."""
    return min(corpus.part_size, corpus.documents - part * corpus.part_size)


def plan_for(model: Any, corpus: Corpus, dtype: str, batch_size: int, threads: int) -> BuildPlan:
    """The plan of a build with a model, whose memories get the format `dtype`."""
    source = {"corpus": asdict(corpus), "batch_size": batch_size, "threads": threads}
    source["device"] = model.device.type
    made_by = (model.memory_fingerprint(), model.memory_base(), dtype)
    return BuildPlan(len(corpus.starts), *made_by, *widths(model), corpus.fields, source)


def widths(model: Any) -> tuple[int, int]:
    """H of a model's memories, and D of its search vectors."""
    config = model.config
    hidden_size = config.get_text_config().hidden_size
    flat = config.retrieval_pooling == "flatten"
    return hidden_size, hidden_size * config.num_memory_tokens if flat else hidden_size


def corpus_of(plan: BuildPlan) -> Corpus:
    """The documents of a plan."""
    return Corpus(**plan.source["corpus"])
