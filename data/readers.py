"""Reads training, evaluation and corpus rows from JSONL files, Parquet files or a data set on the Hub.

A source is a path (`.jsonl`, `.json`, `.jsonl.gz`, `.parquet`), a folder of such files, a list of paths, or
the name of a data set with its configuration, such as `apple/CLaRa_multi_stage:pretraining`; `split` and
`streaming` are for such a data set alone. Errors name file and line.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as parquet

from .joining import join_documents
from .records import CorpusRecord, PretrainingRecord, QuestionRecord
from .rows import to_corpus, to_pretraining, to_questions

Source = str | Path | Sequence[str | Path]
Record = TypeVar("Record")
_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".parquet")
_DATASET = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def read_pretraining(
    source: Source, join: str = "all", split: str = "train", streaming: bool = False
) -> Iterator[PretrainingRecord]:
    """Reads pretraining rows and joins those of one document into one record.

    A document's question rows and its paraphrase rows are separate rows of the released schema; joined, the
    document is compressed once for all its signals. A question that occurs twice keeps its place and collects
    the answers.

    Args:
        source: see the module's docstring. Rows with `text` and no `docs` are read as unlabelled documents.
        join: `"all"` joins rows anywhere in the source and holds it all in memory; `"adjacent"` joins
            neighbouring rows only and holds one record (use it with `streaming`); `"none"` gives one record
            for each row.
        split: of a data set on the Hub.
        streaming: likewise.

    Returns:
        An iterator of records, in the order in which their documents first occur.

    Raises:
        ValueError: if `source` or `join` is unknown, or a row is bad (the message says file and line).
    """
    rows = read_rows(source, split, streaming)
    return join_documents(_parse(rows, lambda row: [to_pretraining(row)]), join)


def read_questions(source: Source, split: str = "train", streaming: bool = False) -> Iterator[QuestionRecord]:
    """Reads question rows of instruction tuning, end to end and evaluation.

    A row that holds a long `document` and several `qa` pairs gives one record for each pair.

    Raises:
        ValueError: if `source` is unknown, or a row is bad (the message says file and line).
    """
    return _parse(read_rows(source, split, streaming), to_questions)


def read_corpus(source: Source, split: str = "train", streaming: bool = False) -> Iterator[CorpusRecord]:
    """Reads corpus rows, `id`, `text` and, optionally, `title`; errors as of `read_questions`."""
    return _parse(read_rows(source, split, streaming), lambda row: [to_corpus(row)])


def read_rows(
    source: Source, split: str = "train", streaming: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads raw rows, each with its place: `path:line` for files, `name row n` for a data set on the Hub.

    Raises:
        ValueError: if `source` is unknown or a line is not a JSON object.
    """
    names = [source] if isinstance(source, (str, Path)) else list(source)
    if not names:
        raise ValueError("`source` is an empty list: name at least one file or data set.")
    parts = [part for name in names for part in _parts(name)]
    return (item for part in parts for item in _rows_of(part, split, streaming))


def _parse(
    rows: Iterable[tuple[str, dict]], parse: Callable[[Mapping[str, Any]], list[Record]]
) -> Iterator[Record]:
    """Yields the records of the rows, adding the row's place to any error."""
    for place, row in rows:
        try:
            records = parse(row)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{place}: {error}") from error
        yield from records


def _parts(name: str | Path) -> list[Path | str]:
    """Resolves one source into files or the name of a data set on the Hub."""
    path = Path(name)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.lower().endswith(_SUFFIXES))
        if not files:
            raise ValueError(f"`source` {path} is a folder without {', '.join(_SUFFIXES)} files.")
        return files
    if path.name.lower().endswith(_SUFFIXES):
        if not path.is_file():
            raise ValueError(f"`source` {path} does not exist.")
        return [path]
    if _DATASET.fullmatch(str(name)) and not path.exists():
        return [str(name)]
    raise ValueError(
        f"`source` must be a {', '.join(_SUFFIXES)} file, a folder of them or a data set's name "
        f"(owner/name or owner/name:configuration), got {str(name)!r}."
    )


def _rows_of(part: Path | str, split: str, streaming: bool) -> Iterator[tuple[str, dict]]:
    if isinstance(part, str):
        return _hub_rows(part, split, streaming)
    return _parquet_rows(part) if part.suffix.lower() == ".parquet" else _json_rows(part)


def _json_rows(path: Path) -> Iterator[tuple[str, dict]]:
    with (
        gzip.open(path, "rt", encoding="utf-8-sig")
        if path.suffix.lower() == ".gz"
        else path.open(encoding="utf-8-sig") as lines
    ):
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{path}:{number}", _json_object(line, f"{path}:{number}")


def _json_object(line: str, place: str) -> dict:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"{place}: not valid JSON ({error}); the file must hold one JSON object a line."
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f"{place}: must be a JSON object, got {type(row).__name__}.")
    return row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict]]:
    number = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024, use_threads=False):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}:{number}", {key: value for key, value in row.items() if value is not None}


def _hub_rows(name: str, split: str, streaming: bool) -> Iterator[tuple[str, dict]]:
    from datasets import load_dataset

    repository, _, configuration = name.partition(":")
    rows = load_dataset(repository, configuration or None, split=split, streaming=streaming)
    for number, row in enumerate(rows):
        yield f"{name} {split} row {number}", {key: value for key, value in row.items() if value is not None}
