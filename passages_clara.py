"""The table of passages beside the memories: its columns are checked here and written to Parquet.

Columns: `document_id`, `text`, `parent` (id of the document the passage was cut from), `order` (its place
there), `metadata` (a JSON object as text).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("document_id", "text", "parent", "order", "metadata")
SCHEMA = pa.schema(
    [
        ("document_id", pa.string()),
        ("text", pa.large_string()),
        ("parent", pa.string()),
        ("order", pa.int64()),
        ("metadata", pa.large_string()),
    ]
)
ROWS_PER_GROUP = 1024


def check_passages(
    rows: int,
    texts: Sequence[str],
    document_ids: Sequence[str] | None = None,
    metadata: Sequence[Mapping[str, Any]] | None = None,
    parents: Sequence[str] | None = None,
    orders: Sequence[int] | None = None,
) -> dict[str, list]:
    """Checks the passages of `rows` memories and returns them as columns, defaults filled in.

    Raises:
        ValueError: If a list has another length, an entry is of another kind or not valid Unicode, an order
            is negative, metadata is not JSON, or an id occurs twice. The message names the index.
    """
    document_ids = [str(row) for row in range(rows)] if document_ids is None else document_ids
    given = {
        "texts": texts,
        "document_ids": document_ids,
        "metadata": [{}] * rows if metadata is None else metadata,
        "parents": document_ids if parents is None else parents,
        "orders": [0] * rows if orders is None else orders,
    }
    for name, values in given.items():
        if isinstance(values, str) or len(values) != rows:
            got = "one string" if isinstance(values, str) else f"{len(values)} entries"
            raise ValueError(f"`{name}` must have one entry for each of the {rows} memories, got {got}.")
    columns = {
        "document_id": check_strings("document_ids", given["document_ids"]),
        "text": check_strings("texts", given["texts"]),
        "parent": check_strings("parents", given["parents"]),
        "order": [_check_order(index, order) for index, order in enumerate(given["orders"])],
        "metadata": [_to_json(index, entry) for index, entry in enumerate(given["metadata"])],
    }
    check_unique(columns["document_id"])
    return columns


def check_unique(document_ids: Sequence[str]) -> None:
    """Raises ValueError if an id occurs twice; names it and both places."""
    if len(set(document_ids)) == len(document_ids):
        return
    seen: dict[str, int] = {}
    for index, document_id in enumerate(document_ids):
        if document_id in seen:
            raise ValueError(
                f"`document_ids` must be unique, got {document_id!r} at {seen[document_id]} and {index}."
            )
        seen[document_id] = index


def check_strings(name: str, values: Sequence[str]) -> list[str]:
    """Checks that every value is a string that UTF-8 can hold; raises ValueError, which names the index."""
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"`{name}[{index}]` must be a string, got {value!r}: convert it with str().")
        if value.isascii():
            continue
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"`{name}[{index}]` is not valid Unicode (a lone surrogate at character {error.start}): "
                "replace it, for instance with .encode('utf-8', 'replace').decode()."
            ) from error
    return list(values)


def _check_order(index: int, order: int) -> int:
    if isinstance(order, bool) or not isinstance(order, int) or not 0 <= order < 2**63:
        raise ValueError(f"`orders[{index}]` must be a whole number of at least 0, got {order!r}.")
    return order


def _to_json(index: int, entry: Mapping[str, Any]) -> str:
    if not isinstance(entry, Mapping):
        raise ValueError(f"`metadata[{index}]` must be a mapping, got {type(entry).__name__}.")
    try:
        return json.dumps(dict(entry), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`metadata[{index}]` cannot be written as JSON: {error}.") from error


class PassageWriter:
    """Writes a table in row groups of fixed size: its bytes do not depend on the size of the batches."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetWriter(
            path, SCHEMA, compression="zstd", write_statistics=False, write_page_checksum=True
        )
        self._waiting: dict[str, list] = {name: [] for name in COLUMNS}

    def write(self, columns: Mapping[str, Sequence]) -> None:
        """Adds rows given as columns of equal length."""
        for name in COLUMNS:
            self._waiting[name].extend(columns[name])
        while len(self._waiting["text"]) >= ROWS_PER_GROUP:
            self._flush(ROWS_PER_GROUP)

    def close(self, keep: bool = True) -> None:
        """Writes the rows that wait, if `keep`, and closes the file."""
        try:
            if keep and self._waiting["text"]:
                self._flush(ROWS_PER_GROUP)
        finally:
            self._file.close()

    def _flush(self, rows: int) -> None:
        group = {name: values[:rows] for name, values in self._waiting.items()}
        self._file.write_table(pa.table(group, schema=SCHEMA))
        self._waiting = {name: values[rows:] for name, values in self._waiting.items()}
