"""Reads a user's own documents from .txt, .md, .jsonl and .parquet files, one at a time, in a fixed order."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from .readers import read_rows

logger = logging.getLogger(__name__)

SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")

PathLike = str | os.PathLike[str]


def read_documents(paths: PathLike | Sequence[PathLike]) -> Iterator[dict[str, Any]]:
    """Reads documents as mappings with `id`, `text`, `title` where there is one, and the row's other columns.

    A .txt or .md file is one document; its id is its path below the folder that all `paths` share, and the
    first `#` heading of a .md file is its title. A .jsonl or .parquet file holds a document in each row:
    `text`, and optionally `id` (else the file's path and the row's number: `news.jsonl:12`) and
    `title`; other columns are metadata, kept unless they are empty. Folders are searched through, sorted by
    name; files and folders whose names start with a dot are passed over, and a file met twice is read once.

    Args:
        paths: files and folders.

    Returns:
        An iterator that holds one document (for .parquet, a batch of 1024 rows) at a time.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a named file has another suffix, a folder holds nothing to read, or (while reading) a file
            is not UTF-8, a row is malformed or a text is empty; the message says file and line.
    """
    return read_files(find_files(paths))


def count_documents(paths: PathLike | Sequence[PathLike]) -> int:
    """The number of documents that `read_documents` gives, without parsing them (for progress bars)."""
    return sum(_count(file) for file, _ in find_files(paths))


def find_files(paths: PathLike | Sequence[PathLike]) -> list[tuple[Path, str]]:
    """Every file to read with its name: the path below the folder that all `paths` share.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: no path, an unknown suffix, or a folder without a readable file.
    """
    given = [Path(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    if not given:
        raise ValueError("`paths` is empty: name at least one file or folder.")
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist.")
    root = os.path.commonpath([os.path.abspath(path if path.is_dir() else path.parent) for path in given])
    found = {}
    for file in (file for path in given for file in _files_of(path)):
        found.setdefault(file.resolve(), (file, Path(os.path.relpath(file, root)).as_posix()))
    return list(found.values())


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{path} has the suffix {path.suffix!r}; readable are {', '.join(SUFFIXES)}.")
        return [path]
    files, skipped = [], []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            (files if Path(name).suffix.lower() in SUFFIXES else skipped).append(Path(folder, name))
    if skipped:
        shown = ", ".join(str(file) for file in skipped[:3]) + (", …" if len(skipped) > 3 else "")
        logger.warning("%d files are not %s and are passed over: %s", len(skipped), "/".join(SUFFIXES), shown)
    if not files:
        raise ValueError(f"{path} holds no {', '.join(SUFFIXES)} file.")
    return files


def read_files(files: Iterable[tuple[Path, str]]) -> Iterator[dict[str, Any]]:
    """Reads documents as `read_documents`, from files and names as of `find_files`."""
    for file, name in files:
        if file.suffix.lower() in (".jsonl", ".parquet"):
            yield from _row_documents(file, name)
        else:
            yield _text_document(file, name)


def _text_document(file: Path, name: str) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8 ({error.reason} at byte {error.start}): convert it first."
        ) from error
    title, text = _split_heading(text) if file.suffix.lower() == ".md" else (None, text)
    if not text.strip():
        raise ValueError(f"{file} holds no text: remove it or leave it out.")
    return {"id": name, "text": text} if title is None else {"id": name, "title": title, "text": text}


def _split_heading(text: str) -> tuple[str | None, str]:
    """The first `#` heading outside code fences, and the text without its line (unless nothing is left)."""
    lines, fenced = text.splitlines(keepends=True), False
    for index, line in enumerate(lines):
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        marks, _, heading = line.strip().partition(" ")
        heading = heading.strip().rstrip("#").rstrip()
        if not fenced and heading and 1 <= len(marks) <= 6 and set(marks) == {"#"}:
            rest = "".join(lines[:index] + lines[index + 1 :])
            return heading, rest if rest.strip() else text
    return None, text


def _row_documents(file: Path, name: str) -> Iterator[dict[str, Any]]:
    number = "0"
    try:
        with _naming_parquet(file):
            for place, row in read_rows(file):
                number = place.rpartition(":")[2]
                yield _row_document(row, place, f"{name}:{number}")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8 ({error.reason}, after line {number}): convert it first."
        ) from error


def _row_document(row: dict[str, Any], place: str, default_id: str) -> dict[str, Any]:
    text, title = row.get("text"), row.get("title")
    if not isinstance(text, str):
        told = f"a {type(text).__name__}" if "text" in row else f"none among {sorted(row)}"
        raise ValueError(f"{place}: `text` must be a string, got {told}.")
    if not text.strip():
        raise ValueError(f"{place}: `text` is empty.")
    if title is not None and not isinstance(title, str):
        raise ValueError(f"{place}: `title` must be a string, got a {type(title).__name__}.")
    document_id = row.get("id")
    if isinstance(document_id, bool) or not isinstance(document_id, (str, int, type(None))):
        raise ValueError(f"{place}: `id` must be a string or a whole number, got {document_id!r}.")
    kept = {key: _plain(value) for key, value in row.items() if value is not None and value != ""}
    return {**kept, "id": default_id if document_id in (None, "") else str(document_id)}


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: dates, decimals and the like of Parquet files become text."""
    return value if isinstance(value, (str, int, float)) else json.loads(json.dumps(value, default=str))


@contextmanager
def _naming_parquet(file: Path) -> Iterator[None]:
    try:
        yield
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file} cannot be read as Parquet: {error}") from error


def _count(file: Path) -> int:
    if file.suffix.lower() == ".parquet":
        with _naming_parquet(file), parquet.ParquetFile(file) as opened:
            return opened.metadata.num_rows
    if file.suffix.lower() == ".jsonl":
        with file.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    return 1
