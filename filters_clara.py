"""Metadata filters: which passages a search may return, checked once, for both back ends.

A filter is a mapping; a passage passes if every entry holds for its metadata:

| entry | holds where the field |
|---|---|
| `"language": "en"` | equals the value: a string, a number, True or False |
| `"language": ["en", "de"]` | equals one of them |
| `"year": {">=": 1890, "<": 1900}` | lies in the range; `>`, `>=`, `<`, `<=`, also for strings |
| `"language": {"!=": "en"}` | is there and is another value |

Two names mean columns of the store and not metadata: `document_id` and `parent`. A field that is missing,
null or of another kind never passes; numbers compare with numbers only, so True is not 1.
"""

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

COMPARISONS = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "!=": operator.ne,
}
COLUMN_FIELDS = ("document_id", "parent")
Where = Mapping[str, Any] | Callable[[dict], bool]


def check_where(where: Where | None) -> None:
    """Checks a filter; a callable and None are fine.

    Raises:
        ValueError: If it is no mapping from names to conditions, or a condition is none of the four. The
            message names the field.
    """
    if where is None or callable(where):
        return
    if not isinstance(where, Mapping) or not where:
        raise ValueError(f"`where` must map names of fields to conditions, got {where!r}.")
    for name, condition in where.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"`where` must have names of fields as keys, got {name!r}.")
        _check_condition(name, condition)


def _check_condition(name: str, condition: Any) -> None:
    if isinstance(condition, Mapping):
        unknown = [key for key in condition if key not in COMPARISONS]
        if unknown or not condition:
            got = unknown[0] if unknown else {}
            raise ValueError(
                f"`where[{name!r}]` must compare with {', '.join(COMPARISONS)}, got {got!r}: write equality "
                "as a plain value and a choice as a list."
            )
        values = list(condition.values())
    elif _is_list(condition):
        values = list(condition)
        if not values:
            raise ValueError(f"`where[{name!r}]` is an empty list, which nothing equals: leave it out.")
    else:
        values = [condition]
    for value in values:
        if _kind(value) is None or value != value:
            raise ValueError(f"`where[{name!r}]` must hold strings, numbers, True or False, got {value!r}.")


def _is_list(condition: Any) -> bool:
    return isinstance(condition, Sequence | set | frozenset) and not isinstance(condition, str)


def _kind(value: Any) -> type | None:
    """The kind within which values compare; None for what a filter cannot hold."""
    if isinstance(value, bool):
        return bool
    if isinstance(value, int | float):
        return float
    return str if isinstance(value, str) else None


def passes(where: Where, metadata: Mapping[str, Any]) -> bool:
    """Whether a passage passes a checked filter.

    Args:
        where: The filter.
        metadata: The passage's metadata, with `document_id` and `parent` of its columns (`with_columns`).
    """
    if callable(where):
        return bool(where(dict(metadata)))
    return all(_holds(condition, metadata.get(name)) for name, condition in where.items())


def with_columns(metadata: str, document_id: str, parent: str) -> dict[str, Any]:
    """The fields that a filter sees of one row of a store, whose metadata is a JSON object as text."""
    return {**json.loads(metadata), "document_id": document_id, "parent": parent}


def _holds(condition: Any, value: Any) -> bool:
    if isinstance(condition, Mapping):
        return all(
            _kind(value) == _kind(bound) and COMPARISONS[sign](value, bound)
            for sign, bound in condition.items()
        )
    wanted = condition if _is_list(condition) else [condition]
    return any(_kind(value) == _kind(one) and value == one for one in wanted)


def to_expression(where: Mapping[str, Any], field: str = "metadata") -> str:
    """A checked filter in the language of Milvus.

    Args:
        where: The filter, a mapping.
        field: Name of the collection's JSON field.

    Raises:
        TypeError: If the filter is a callable, which only the local back end can run.
    """
    if callable(where):
        raise TypeError("`where` must be a mapping here: a callable cannot run inside Milvus.")
    parts = []
    for name, condition in where.items():
        place = name if name in COLUMN_FIELDS else f"{field}[{_literal(name)}]"
        if isinstance(condition, Mapping):
            parts += [f"{place} {sign} {_literal(bound)}" for sign, bound in condition.items()]
        elif _is_list(condition):
            # Milvus knows `in` for columns only
            parts.append(f"({' or '.join(f'{place} == {_literal(value)}' for value in condition)})")
        else:
            parts.append(f"{place} == {_literal(condition)}")
    return " and ".join(parts)


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
