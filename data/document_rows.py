"""Files with a document in each row: .jsonl, .json, .parquet, and .csv and .tsv with a column of texts."""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow

from ..processing_clara import IDS, TEXTS, clean_text, read_fields
from .loaders import read_text, table_document
from .readers import read_rows
from .skipped import Skipped

ROWS, TABLES = (".jsonl", ".json", ".parquet"), (".csv", ".tsv")
DEEPEST = 20
WHOLE, NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})"), re.compile(r"-?(0|[1-9]\d*)\.\d+")


def has_rows(file: Path) -> bool:
    """Whether each row of a file is a document; else it is one itself, as a table without texts is."""
    suffix = file.suffix.lower()
    return suffix in ROWS or suffix in TABLES and bool(set(_table(file)[0]) & set(TEXTS))


def document_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file, each with its place (`path:line`), which a ValueError names if it is malformed."""
    suffix, number = file.suffix.lower(), "0"
    try:
        if suffix in TABLES:
            rows = _table_rows(file)
        else:
            rows = _json_rows(file) if suffix == ".json" else read_rows(file)
        for place, row in rows:
            number = place.rpartition(":")[2]
            yield place, row
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8 ({error.reason}, after line {number}): convert it first."
        ) from error
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file} cannot be read as Parquet: {error}") from error


def row_documents(file: Path, name: str, skipped: Skipped) -> Iterator[dict[str, Any]]:
    """The documents of a file of rows; `skipped` takes those without a text, a ValueError names bad ones."""
    empty: list[str] = []
    for place, row in document_rows(file):
        number = place.rpartition(":")[2]
        document = row_document(row, place, f"{name}:{number}")
        if document["text"].strip():
            yield document
        elif skipped.strict:
            skipped.add(place, "has an empty `text`")
        else:
            empty.append(number)
    if empty:
        skipped.add(file, f"has rows without text, {len(empty)} of them (first: {empty[0]})")


def row_document(row: Mapping[str, Any], place: str, default_id: str) -> dict[str, Any]:
    """The document in a row, as JSON can hold it; a ValueError about a field begins with the place."""
    fields = read_fields(row)
    text, title, document_id = fields.get("text"), fields.get("title"), fields.get("id")
    if "text" not in fields and any(name in row for name in TEXTS):
        text = ""
    if not isinstance(text, str):
        told = f"a {type(text).__name__}" if "text" in fields else f"none among {sorted(map(str, row))}"
        raise ValueError(f"{place}: `text` must be a string, got {told}.")
    if title is not None and not isinstance(title, str):
        raise ValueError(f"{place}: `title` must be a string, got a {type(title).__name__}.")
    if isinstance(document_id, bool) or not isinstance(document_id, (str, int, type(None))):
        raise ValueError(f"{place}: `id` must be a string or a whole number, got {document_id!r}.")
    kept = {clean_text(str(key)): plain(value, f"{place}: `{key}`") for key, value in fields.items()}
    kept = {key: value for key, value in kept.items() if value is not None and value != ""}
    named = default_id if document_id in (None, "") else clean_text(str(document_id))
    return {**kept, "text": kept.get("text", ""), "id": named}


def plain(value: Any, name: str, depth: int = 0) -> Any:
    """A value as JSON can hold it: NaN is none, dates, decimals and the like become text.

    A ValueError, which calls it `name`, if it is an infinity or lies in more than 20 lists and mappings.
    """
    if depth > DEEPEST:
        raise ValueError(f"{name} is nested more than {DEEPEST} deep: flatten it.")
    if isinstance(value, Mapping):
        return {clean_text(str(key)): plain(entry, name, depth + 1) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(entry, name, depth + 1) for entry in value]
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        raise ValueError(f"{name} is infinite, which JSON cannot hold: leave it out.")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return clean_text(str(value))


def table_as_document(file: Path) -> dict[str, Any]:
    """A .csv or .tsv file without a column of texts: one document, with a section for each row."""
    names, rows = _table(file)
    return table_document([(file.stem, names, (row for _, row in rows))])


def _json_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a .json file: a list of mappings, a mapping that holds one list of them, or one mapping."""
    try:
        found = json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            yield from read_rows(file)
            return
        raise ValueError(f"{file} is not valid JSON ({error}).") from error
    if isinstance(found, dict) and not set(found) & set(TEXTS):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else [found]
    for number, row in enumerate([found] if isinstance(found, dict) else found, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{file}:{number}: must be a JSON object, got {type(row).__name__}.")
        yield f"{file}:{number}", row


def _table(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the rows with their lines."""
    text = read_text(file)
    delimiter = "\t" if file.suffix.lower() == ".tsv" else _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{file}:{reader.line_num}: cannot be read as a table: {error}.") from error
    return ([name.strip() for name in lines[0][1]], lines[1:]) if lines else ([], [])


def _delimiter(text: str) -> str:
    """Comma, semicolon, tab or bar: the one that the first line has most of."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return max(",;\t|", key=first.count)


def _table_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows as mappings; a column of numbers alone is one of numbers, unless it holds ids or texts."""
    names, rows = _table(file)
    for line, row in rows:
        if len(row) > len(names):
            raise ValueError(f"{file}:{line}: has {len(row)} cells, but there are {len(names)} columns.")
    kinds = [
        _kind(name, [row[index] for _, row in rows if index < len(row)]) for index, name in enumerate(names)
    ]
    for line, row in rows:
        cells = zip(names, kinds, row, strict=False)
        yield f"{file}:{line}", {name: kind(cell) if cell else None for name, kind, cell in cells}


def _kind(name: str, cells: Sequence[str]) -> type:
    filled = [cell for cell in cells if cell]
    if name in (*TEXTS, *IDS, "title") or not filled:
        return str
    if all(WHOLE.fullmatch(cell) for cell in filled):
        return int
    return float if all(WHOLE.fullmatch(cell) or NUMBER.fullmatch(cell) for cell in filled) else str
