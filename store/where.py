"""Filters in SQL: what Lance is told of a mapping, or of a text in which metadata go by their bare names."""

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from .ranking import check_where, condition_values, read_ids
from .schema import kind_of, literals

COLUMNS = ("id", "parent", "order", "text")
PATH = r"(?:\.(?:`[^`]*`|\w+))*"
# a text, a quoted name, or a path of names
TOKEN = re.compile(rf"'(?:[^']|'')*'|`[^`]*`{PATH}|\"[^\"]*\"|[^\W\d]\w*{PATH}")


def to_sql(where: str | Mapping[str, Any], fields: pa.StructType) -> str:
    """A filter in Lance's SQL.

    Args:
        where: SQL text in which fields of the metadata go by their names (`year > 2020 AND author.name =
            'Ann'`), or a mapping (see `check_where`).
        fields: The store's fields.

    Raises:
        ValueError: If it is neither, or malformed.
    """
    if isinstance(where, str):
        if not where.strip():
            raise ValueError("`where` is an empty text: leave it out to search all passages.")
        return TOKEN.sub(lambda match: _named(match[0], fields), where)
    check_where(where)
    parts = [_condition(name, condition, fields) for name, condition in read_ids(where).items()]
    return " AND ".join(f"({part})" for part in parts)


def _named(token: str, fields: pa.StructType) -> str:
    """A name in an SQL text, put below `metadata` if it is one of its fields and no column."""
    if token[0] in "'\"":
        return token
    first = re.match(r"`([^`]*)`|\w+", token)
    name = first[1] or first[0]
    known = any(field.name == name for field in fields)
    if not known or name in (*COLUMNS, "metadata"):
        return token
    return f"metadata.{quoted(name)}{token[first.end() :]}"


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever characters it has."""
    return f"`{name}`"


def _condition(name: str, condition: Any, fields: pa.StructType) -> str:
    place, kind = _place(name, fields)
    values = [value for value in condition_values(condition) if kind is not None and kind_of(value) == kind]
    if isinstance(condition, Mapping):
        if len(values) < len(condition):
            return "false"
        return " AND ".join(f"{place} {sign} {_literal(value)}" for sign, value in condition.items())
    return f"{place} IN ({', '.join(map(_literal, values))})" if values else "false"


def _place(name: str, fields: pa.StructType) -> tuple[str, pa.DataType | None]:
    """Where a field lies, and its kind; None if no passage has it."""
    if name in ("id", "parent"):
        return name, pa.string()
    there = {field.name: field.type for field in fields}
    place, kind = "metadata", pa.struct(fields)
    for key in [name] if name in there else name.split("."):
        inner = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
        if key not in inner:
            return place, None
        place, kind = f"{place}.{quoted(key)}", inner[key]
    return place, kind


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return literals([value]) if isinstance(value, str) else repr(float(value))
