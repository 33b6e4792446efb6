"""Columns of passages, list-like: read lazily from Parquet, joined end to end, without deleted rows."""

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .blocks_clara import map_file
from .passages_clara import COLUMNS, SCHEMA

GROUPS_AT_ONCE = 64


class PassageFile:
    """A Parquet file of passages by memory map: readable, on POSIX, also when its name was removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content = map_file(path)

    def open(self) -> pq.ParquetFile:
        """Opens the file; every page that is read is compared with its checksum."""
        reader = pa.BufferReader(pa.py_buffer(self._content))
        return pq.ParquetFile(reader, page_checksum_verification=True)

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.__init__(path)


class ParquetColumn(Sequence):
    """One column of one Parquet file, read a row group at a time; only the latest group stays in RAM."""

    def __init__(self, file: PassageFile, name: str, groups: Sequence[int]) -> None:
        self._file, self._name = file, name
        self._ends = list(itertools.accumulate(groups))
        self._latest: tuple[int, list] = (-1, [])

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            return [self[row] for row in range(*key.indices(len(self)))]
        row = range(len(self))[key]
        group = bisect_right(self._ends, row)
        start = self._ends[group - 1] if group else 0
        return self._group(group)[row - start]

    def __iter__(self) -> Iterator:
        return itertools.chain.from_iterable(self._group(group) for group in range(len(self._ends)))

    def chunks(self) -> Iterator[pa.Array]:
        """The values as Arrow arrays, some row groups at a time."""
        for start in range(0, len(self._ends), GROUPS_AT_ONCE):
            stop = min(len(self._ends), start + GROUPS_AT_ONCE)
            yield self._read(list(range(start, stop)))

    def _group(self, group: int) -> list:
        number, values = self._latest
        if number != group:
            values = self._read([group]).to_pylist()
            self._latest = (group, values)
        return values

    def _read(self, groups: list[int]) -> pa.Array:
        try:
            with self._file.open() as file:
                return (
                    file.read_row_groups(groups, columns=[self._name], use_threads=False)
                    .column(0)
                    .combine_chunks()
                )
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{self._file.path} was altered ({error}): copy or build the store again."
            ) from error


class Selected(Sequence):
    """The entries of a column at some rows, in their order; nothing is copied."""

    def __init__(self, column: Sequence, rows: np.ndarray) -> None:
        self._column, self._rows = column, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            return [self._column[row] for row in self._rows[key].tolist()]
        return self._column[int(self._rows[key])]

    def __iter__(self) -> Iterator:
        chosen = np.zeros(len(self._column), bool)
        chosen[self._rows] = True
        return itertools.compress(self._column, chosen.tolist())

    def chunks(self) -> Iterator[pa.Array]:
        """The values as Arrow arrays."""
        start = 0
        for chunk in arrow_chunks(self._column):
            first, last = np.searchsorted(self._rows, [start, start + len(chunk)])
            yield chunk.take(pa.array(self._rows[first:last] - start))
            start += len(chunk)


def arrow_chunks(column: Sequence) -> Iterator[pa.Array]:
    """The strings of a column as Arrow arrays, in which a search makes no Python strings."""
    if hasattr(column, "chunks"):
        return column.chunks()
    values = list(column)
    return iter([pa.array(values, pa.large_string())]) if values else iter(())


class Column(Sequence):
    """Several columns end to end, list-like: index, slice, iterate, compare with a list."""

    def __init__(self, parts: Sequence[Sequence], decode: Callable[[Any], Any] | None = None) -> None:
        self._parts, self._decode = list(parts), decode
        self._ends = list(itertools.accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            return [self[row] for row in range(*key.indices(len(self)))]
        row = range(len(self))[key]
        part = bisect_right(self._ends, row)
        value = self._parts[part][row - (self._ends[part - 1] if part else 0)]
        return self._decode(value) if self._decode else value

    def __iter__(self) -> Iterator:
        values = itertools.chain.from_iterable(self._parts)
        return map(self._decode, values) if self._decode else values

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (str, bytes)) or not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None

    def __repr__(self) -> str:
        shown = ", ".join(repr(self[row]) for row in range(min(3, len(self))))
        return f"[{shown}{', …' if len(self) > 3 else ''}] ({len(self)} entries)"


def open_columns(path: Path, rows: int) -> dict[str, ParquetColumn]:
    """Opens the table at `path`: reads its footer, checks columns and row count, reads no row.

    Raises:
        ValueError: If the file is not Parquet, lacks a column or has another number of rows.
    """
    try:
        passages = PassageFile(path)
        with passages.open() as file:
            schema, footer = file.schema_arrow, file.metadata
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not a readable Parquet file ({error}): copy or build the store again."
        ) from error
    wrong = [field.name for field in SCHEMA if field not in schema]
    if wrong:
        raise ValueError(
            f"{path} lacks the columns {wrong} or has them in another type: build the store again."
        )
    if footer.num_rows != rows:
        raise ValueError(
            f"{path} has {footer.num_rows} passages but the manifest says {rows}: build the store again."
        )
    groups = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    return {name: ParquetColumn(passages, name, groups) for name in COLUMNS}
