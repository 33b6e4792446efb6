"""The files of an index beside the store that it was built for, pinned to the store's shards.

`corpus_index.json` says what the index is and names two more files; it is put in place last and at once. An
index covers the first N rows of a store whose first shards have the digest written in it: a store that has
grown since keeps its index, any other one refuses it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .index_clara import Effort, SketchIndex
from .searchers_clara import KINDS, load_faiss, read_searcher
from .shards_clara import ShardEntry, file_sha256, sync
from .sketch_clara import QuestionSketch

INDEX = "corpus_index.json"
FORMAT = "clara_corpus_index"
FORMAT_VERSION = 1
REBUILD = "build it again with `build_index`, or search with `exact=True`"


@dataclass(frozen=True)
class IndexEntry:
    """What `corpus_index.json` holds; fields have the same names there.

    Attributes:
        kind: One of `searchers_clara.KINDS`.
        dimensions: Numbers of a sketch.
        rows: Rows of the store that are covered, from the first.
        shards: Shards of the store when the index was built.
        store: Digest of these shards.
        index_file: FAISS' file.
        index_bytes: Its size.
        index_sha256: Its digest.
        sketch_file: The projection of questions, safetensors.
        sketch_bytes: Its size.
        sketch_sha256: Its digest.
        candidates: Documents scored exactly for each one returned.
        cells: Cells looked at.
        reordered: Codes ordered anew by their sketches.
        recall: `{"at", "mean", "questions", "of"}`, measured against exact search.
    """

    kind: str
    dimensions: int
    rows: int
    shards: int
    store: str
    index_file: str
    index_bytes: int
    index_sha256: str
    sketch_file: str
    sketch_bytes: int
    sketch_sha256: str
    candidates: float
    cells: int
    reordered: int
    recall: dict[str, Any]
    format: str = FORMAT
    format_version: int = FORMAT_VERSION


RULES: dict[str, Callable[[Any], bool]] = {
    "kind": lambda value: value in KINDS,
    **dict.fromkeys(
        ("dimensions", "rows", "shards", "index_bytes", "sketch_bytes"),
        lambda value: type(value) is int and value >= 1,
    ),
    **dict.fromkeys(
        ("store", "index_sha256", "sketch_sha256"), lambda value: isinstance(value, str) and len(value) == 64
    ),
    "candidates": lambda value: isinstance(value, int | float) and value >= 1,
    **dict.fromkeys(("cells", "reordered"), lambda value: type(value) is int and value >= 0),
    "recall": lambda value: isinstance(value, dict),
    "format": lambda value: value == FORMAT,
    "format_version": lambda value: value == FORMAT_VERSION,
}


def store_digest(shards: Sequence[ShardEntry]) -> str:
    """SHA-256 over rows and digests of the shards' memories (or texts); deleting rows changes nothing."""
    lines = "".join(f"{entry.rows} {(entry.memory or entry.texts).sha256}\n" for entry in shards)
    return hashlib.sha256(lines.encode()).hexdigest()


def save_index(folder: Path, index: SketchIndex, shards: Sequence[ShardEntry]) -> IndexEntry:
    """Writes an index of the first rows of a store of these shards; the caller holds the lock."""
    search_file = folder / "index.tmp"
    load_faiss().write_index(index.searcher, str(search_file))
    sketch_file = folder / "sketch.tmp"
    save_file({"axes": index.sketch.axes.contiguous()}, sketch_file)
    entry = IndexEntry(
        index.kind,
        index.sketch.dimensions,
        len(index),
        len(shards),
        store_digest(shards),
        *_publish(search_file, "index", "faiss"),
        *_publish(sketch_file, "sketch", "safetensors"),
        index.effort.candidates,
        index.effort.cells,
        index.effort.reordered,
        index.recall or {},
    )
    temporary = folder / f"{INDEX}.tmp"
    temporary.write_bytes(json.dumps(asdict(entry), indent=1).encode())
    sync(temporary)
    os.replace(temporary, folder / INDEX)
    sync(folder)
    _remove_files(folder, (entry.index_file, entry.sketch_file))
    return entry


def remove_index(folder: Path) -> None:
    """Removes the index in a store's folder, if there is one; the caller holds the lock."""
    (folder / INDEX).unlink(missing_ok=True)
    _remove_files(folder, ())


def _remove_files(folder: Path, kept: tuple[str, ...]) -> None:
    for path in [*folder.glob("index-*.faiss"), *folder.glob("sketch-*.safetensors")]:
        if path.name not in kept:
            path.unlink()


def holds_index(folder: Path, shards: Sequence[ShardEntry]) -> bool:
    """Whether a folder holds an index that belongs to a store of these shards."""
    if not (folder / INDEX).is_file():
        return False
    try:
        check_store(read_entry((folder / INDEX).read_bytes(), INDEX), shards, INDEX)
    except ValueError:
        return False
    return True


def _publish(path: Path, stem: str, suffix: str) -> tuple[str, int, str]:
    sync(path)
    digest = file_sha256(path)
    target = path.with_name(f"{stem}-{digest[:8]}.{suffix}")
    os.replace(path, target)
    return target.name, target.stat().st_size, digest


def read_entry(content: bytes, place: str) -> IndexEntry:
    """Reads `corpus_index.json` strictly.

    Raises:
        ValueError: If it is not JSON, or a field is missing, unknown or absurd.
    """
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON ({error}): {REBUILD}.") from error
    names = set(IndexEntry.__dataclass_fields__)
    if not isinstance(fields, dict) or set(fields) != names:
        raise ValueError(f"{place} must be an object with exactly {sorted(names)}: {REBUILD}.")
    for stem, suffix in (("index", "faiss"), ("sketch", "safetensors")):
        name = fields[f"{stem}_file"]
        if name != f"{stem}-{str(fields[f'{stem}_sha256'])[:8]}.{suffix}" or Path(name).name != name:
            raise ValueError(f"{place}: `{stem}_file` must be the plain name of its file, got {name!r:.200}.")
    for name, rule in RULES.items():
        if not rule(fields[name]):
            raise ValueError(f"{place}: `{name}` cannot be {fields[name]!r:.200}: {REBUILD}.")
    return IndexEntry(**fields)


def check_store(entry: IndexEntry, shards: Sequence[ShardEntry], place: str) -> None:
    """Checks that an index was built for a store of these shards, or for its beginning.

    Raises:
        ValueError: If it was not.
    """
    covered = shards[: entry.shards]
    if store_digest(covered) != entry.store or entry.rows > sum(shard.rows for shard in covered):
        raise ValueError(f"{place} belongs to another store, or the store was written anew since: {REBUILD}.")


def load_index(folder: Path, shards: Sequence[ShardEntry], verify: bool = False) -> SketchIndex:
    """Opens the index in a store's folder by memory map.

    Args:
        folder: The folder.
        shards: Of the store that is open.
        verify: Compare the files' checksums too; sizes are always checked.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If it belongs to another store, or a file is damaged.
        ModuleNotFoundError: If FAISS is not installed.
    """
    place = folder / INDEX
    entry = read_entry(place.read_bytes(), str(place))
    check_store(entry, shards, str(place))
    for stem in ("index", "sketch"):
        _check_file(folder, stem, entry, verify)
    sketch = read_sketch(folder / entry.sketch_file)
    searcher = read_searcher(folder / entry.index_file)
    found = (searcher.ntotal, searcher.d, sketch.dimensions)
    if found != (entry.rows, entry.dimensions, entry.dimensions):
        raise ValueError(
            f"{folder / entry.index_file} holds (rows, dimensions) {found[:2]}, {place} says "
            f"{(entry.rows, entry.dimensions)}: {REBUILD}."
        )
    effort = Effort(entry.candidates, entry.cells, entry.reordered)
    return SketchIndex(entry.kind, sketch, searcher, effort, entry.recall)


def _check_file(folder: Path, stem: str, entry: IndexEntry, verify: bool) -> None:
    path = folder / getattr(entry, f"{stem}_file")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {REBUILD}.")
    size = path.stat().st_size
    if size != getattr(entry, f"{stem}_bytes"):
        raise ValueError(f"{path} has {size} bytes, {INDEX} says otherwise: it was cut short; {REBUILD}.")
    if verify and file_sha256(path) != getattr(entry, f"{stem}_sha256"):
        raise ValueError(f"{path} was altered: {REBUILD}.")


def read_sketch(path: Path) -> QuestionSketch:
    """Reads the projection of questions.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        return QuestionSketch(load_file(path)["axes"])
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} is not a readable sketch ({error}): {REBUILD}.") from error
