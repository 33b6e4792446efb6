"""Writes records in the paper's released row schema, as JSONL or Parquet."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet

from .records import CorpusRecord, PretrainingRecord, QuestionRecord
from .rows import corpus_row, pretraining_rows, question_row

Record = PretrainingRecord | QuestionRecord | CorpusRecord
ROWS: Mapping[str, Callable[[Any], list[dict[str, Any]]]] = {
    "PretrainingRecord": pretraining_rows,
    "QuestionRecord": lambda record: [question_row(record)],
    "CorpusRecord": lambda record: [corpus_row(record)],
}


def record_rows(record: Record) -> list[dict[str, Any]]:
    """Returns the rows of the released schema that hold a record; a TypeError if it is none of ours."""
    name = type(record).__name__
    if name not in ROWS:
        raise TypeError(f"`record` must be one of {', '.join(ROWS)}, got {name}.")
    return ROWS[name](record)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives the place to write a file to, which appears under its name at the end, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_jsonl(records: Iterable[Record], path: str | Path) -> int:
    """Writes records as JSON lines. The file appears whole or not at all.

    Args:
        records: records of one kind.
        path: the file to write; an existing one is replaced.

    Returns:
        The number of rows written (a pretraining record with both kinds of signals takes two rows).
    """
    count = 0
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        for record in records:
            for row in record_rows(record):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
    return count


def write_parquet(records: Iterable[Record], path: str | Path) -> int:
    """Writes records as one Parquet file with the columns of the released schema, holding all rows in memory.

    Arguments and result are those of `write_jsonl`.

    Raises:
        ValueError: if there is nothing to write (a Parquet file needs its columns).
    """
    rows = [row for record in records for row in record_rows(record)]
    if not rows:
        raise ValueError(f"`records` is empty: {path} would have no columns.")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with whole_file(path) as partial:
        parquet.write_table(pyarrow.table({c: [row.get(c) for row in rows] for c in columns}), partial)
    return len(rows)
