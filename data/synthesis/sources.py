"""Reads documents for bulk work: like `read_documents`, but passes empty ones on to be counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...processing_clara import read_fields
from ..document_rows import document_rows, has_rows
from ..documents import find_files, read_file
from ..loaders import UnreadableError


def read_sources(paths: Sequence[str | Path]) -> Iterator[dict[str, Any]]:
    """Reads documents as mappings with `id`, `text` (possibly empty) and `title` where there is one.

    Args:
        paths: files and folders, as of `read_documents`.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a file cannot be read; the message names it, and the line in files of rows.
    """
    for file, name in find_files(paths):
        try:
            if has_rows(file):
                yield from _rows(file, name)
            else:
                yield {"id": name, **read_file(file)}
        except UnreadableError as error:
            raise ValueError(f"{file} {error}.") from error


def _rows(file: Path, name: str) -> Iterator[dict[str, Any]]:
    for number, (place, row) in enumerate(document_rows(file), start=1):
        fields = read_fields(row)
        text = fields.get("text")
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{place}: `text` must be a string, got {type(text).__name__}.")
        name_of_row = fields["id"] if fields.get("id") not in (None, "") else f"{name}:{number}"
        yield {"id": str(name_of_row), "title": fields.get("title"), "text": text or ""}
