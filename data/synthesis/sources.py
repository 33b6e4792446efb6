"""Reads documents for bulk work: like `read_documents`, but passes empty ones on to be counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..documents import find_files, read_documents
from ..readers import read_rows


def read_sources(paths: Sequence[str | Path]) -> Iterator[dict[str, Any]]:
    """Reads documents as mappings with `id`, `text` (possibly empty) and `title` where there is one.

    Args:
        paths: files (.txt, .md, .jsonl, .parquet) and folders of them.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a file cannot be read; the message names it, and the line in files of rows.
    """
    for file, name in find_files(paths):
        if file.suffix.lower() in (".jsonl", ".parquet"):
            yield from _rows(file, name)
        elif file.read_bytes().strip():
            yield {**next(read_documents(file)), "id": name}
        else:
            yield {"id": name, "text": ""}


def _rows(file: Path, name: str) -> Iterator[dict[str, Any]]:
    for number, (place, row) in enumerate(read_rows(file), start=1):
        text = row.get("text")
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{place}: `text` must be a string, got {type(text).__name__}.")
        name_of_row = row["id"] if row.get("id") not in (None, "") else f"{name}:{number}"
        yield {"id": str(name_of_row), "title": row.get("title"), "text": text or ""}
