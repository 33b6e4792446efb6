"""The manifest of a stored corpus memory: what a reader must know before it opens a shard, read strictly."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .formats_clara import MODES
from .recompute_clara import RECOMPUTE
from .shards_clara import FileEntry, ShardEntry

MANIFEST = "corpus_memory.json"
FORMAT = "clara_corpus_memory"
FORMAT_VERSION = 2
MEMORY_NAME = re.compile(r"memory-[A-Za-z0-9_-]+\.safetensors")
TEXTS_NAME = re.compile(r"passages-[A-Za-z0-9_-]+\.parquet")
DELETED_NAME = re.compile(r"deleted-[A-Za-z0-9_-]+\.safetensors")


@dataclass(frozen=True)
class Manifest:
    """What a store holds and which files it consists of; JSON fields have the same names.

    `num_passages` counts what is not deleted.
    """

    fingerprint: str | None
    base: dict | None
    num_memory_tokens: int
    hidden_size: int
    dtype: str
    num_passages: int
    shards: tuple[ShardEntry, ...]
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    def to_bytes(self) -> bytes:
        """The manifest as it is written."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False).encode()


def make_manifest(
    shards: Sequence[ShardEntry],
    shape: tuple[int, int],
    dtype: str,
    fingerprint: str | None,
    base: dict | None,
) -> Manifest:
    """The manifest of a store of these shards, whose memories have `shape` (M, H)."""
    rows = sum(entry.live_rows for entry in shards)
    return Manifest(fingerprint, base, shape[0], shape[1], dtype, rows, tuple(shards))


def check_identity(fingerprint: str | None, base: dict | None) -> None:
    """Checks what a manifest will say of the makers of the memories.

    Raises:
        ValueError: If `fingerprint` is no string or `base` no dictionary that JSON can hold.
    """
    if fingerprint is not None and not isinstance(fingerprint, str):
        raise ValueError(f"`fingerprint` must be a string or None, got {fingerprint!r}.")
    if base is not None and not isinstance(base, dict):
        raise ValueError(f"`base` must be a dictionary with `name` and `revision`, or None, got {base!r}.")
    try:
        json.dumps(base, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`base` cannot be written as JSON: {error}.") from error


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 1 (True is not)."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _matches(pattern: str | re.Pattern) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


COUNT = (is_count, "a whole number of at least 1")
DIGEST = (_matches(r"[0-9a-f]{64}"), "64 hexadecimal digits")
MANIFEST_RULES = {
    "fingerprint": (lambda value: value is None or isinstance(value, str), "a string or null"),
    "base": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    "num_memory_tokens": COUNT,
    "hidden_size": COUNT,
    "dtype": (lambda value: isinstance(value, str) and value in MODES, f"one of {', '.join(MODES)}"),
    "num_passages": COUNT,
    "shards": (lambda value: isinstance(value, list) and value, "a list of at least one shard"),
    "format": (lambda value: value == FORMAT, f"'{FORMAT}'"),
    "format_version": COUNT,
}
OBJECT = (lambda value: isinstance(value, dict), "an object")
SHARD_RULES = {
    "memory": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    "texts": OBJECT,
    "deleted": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    "rows": COUNT,
    "live_rows": (lambda value: value == 0 or is_count(value), "a whole number of at least 0"),
}
NAMES = {"memory": MEMORY_NAME, "texts": TEXTS_NAME, "deleted": DELETED_NAME}


def parse_manifest(content: bytes, path: Path) -> Manifest:
    """Reads a manifest strictly.

    Raises:
        ValueError: If it is not JSON, of another version, or a field is missing, unknown or absurd.
    """
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): copy or build the store again.") from error
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if is_count(version) and version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has `format_version` {version}, this code reads {FORMAT_VERSION}: update the code or "
            "build the store again."
        )
    _check_fields(fields, MANIFEST_RULES, str(path))
    entries = tuple(
        _shard_entry(entry, f"{path}: shards[{number}]") for number, entry in enumerate(fields["shards"])
    )
    if any((entry.memory is None) != (fields["dtype"] == RECOMPUTE) for entry in entries):
        raise ValueError(
            f"{path}: `memory` of a shard must be null where `dtype` is recompute, and only there."
        )
    rows = sum(entry.live_rows for entry in entries)
    if rows != fields["num_passages"]:
        raise ValueError(f"{path} says `num_passages` {fields['num_passages']} but its shards hold {rows}.")
    return Manifest(**{**fields, "shards": entries})


def _shard_entry(fields: Any, place: str) -> ShardEntry:
    _check_fields(fields, SHARD_RULES, place)
    files = {}
    for name, pattern in NAMES.items():
        if fields[name] is not None:
            rules = {"file": (_matches(pattern), "the plain name of a file inside the store's folder")}
            _check_fields(fields[name], {**rules, "bytes": COUNT, "sha256": DIGEST}, f"{place}.{name}")
            files[name] = FileEntry(**fields[name])
    entry = ShardEntry(**{**fields, **files})
    if entry.live_rows > entry.rows or (entry.live_rows == entry.rows) != (entry.deleted is None):
        raise ValueError(
            f"{place}: `live_rows` must be below `rows` {entry.rows} where `deleted` names a file and equal "
            f"to it elsewhere, got {entry.live_rows}."
        )
    return entry


def _check_fields(fields: Any, rules: Mapping[str, tuple], place: str) -> None:
    if not isinstance(fields, dict) or set(fields) != set(rules):
        got = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        raise ValueError(f"{place} must be an object with exactly {sorted(rules)}, got {got}.")
    for name, (rule, wanted) in rules.items():
        if not rule(fields[name]):
            raise ValueError(f"{place}: `{name}` must be {wanted}, got {fields[name]!r:.200}.")
