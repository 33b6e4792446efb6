"""What changes a store: rows in, rows in place of others, and whether a document is there already."""

from collections.abc import Iterable
from typing import Any

import lance
import pyarrow as pa

from .schema import Facts, empty_fields, literals, merge_fields, new_fields, to_table
from .search import index_words

ROWS_PER_FILE = 1 << 20
NAMES_AT_ONCE = 10_000


def fields_of(dataset: Any) -> pa.StructType:
    """The fields by which filters see metadata; those of a store that is not there yet."""
    return empty_fields() if dataset is None else dataset.schema.field("metadata").type


def ids_where(dataset: Any, sql: str, column: str) -> set[str]:
    """The values of a column of ids in the rows that pass a filter."""
    if dataset is None:
        return set()
    return set(dataset.to_table(columns=[column], filter=sql)[column].to_pylist())


def check_new(dataset: Any, uri: str, names: Iterable[str]) -> None:
    """Checks that no document or passage of these names is in the store, whole or split.

    Raises:
        ValueError: If one is; names it.
    """
    names = sorted(set(names))
    for start in range(0, len(names), NAMES_AT_ONCE):
        part = literals(names[start : start + NAMES_AT_ONCE])
        there = ids_where(dataset, f"parent IN ({part}) OR id IN ({part})", "parent")
        if there:
            raise ValueError(
                f"The store {uri} has the document {min(there)!r} already: use `upsert` to replace it, or "
                "rename "
                "it."
            )


def check_apart(dataset: Any, memory: Any) -> None:
    """Checks that new passages have no id of a passage whose document they do not replace.

    Raises:
        ValueError: If one has; names the document that is there.
    """
    sql = f"id IN ({literals(sorted(set(memory.document_ids)))})"
    clash = ids_where(dataset, sql, "parent") - set(memory.parents)
    if clash:
        raise ValueError(f"A new passage has an id of the document {min(clash)!r}, which stays: rename one.")


def insert(
    dataset: Any,
    uri: str,
    memory: Any,
    facts: Facts,
    options: dict[str, str] | None,
    replaced: set[str] | None = None,
) -> None:
    """Commits a memory's passages at once; all other passages of the `replaced` documents go with it.

    Args:
        dataset: The Lance dataset at its latest version; None makes one.
        uri: Where it lies.
        memory: The corpus memory.
        facts: The store's.
        options: Of the object storage.
        replaced: Ids of documents; None only adds.
    """
    fields = merge_fields(fields_of(dataset), memory.metadata)
    table = to_table(memory, facts, fields)
    if dataset is None:
        made = lance.write_dataset(table, uri, max_rows_per_file=ROWS_PER_FILE, storage_options=options)
        index_words(made)
        return
    added = new_fields(fields_of(dataset), fields)
    if added is not None:
        dataset.add_columns(pa.schema([pa.field("metadata", added)]))
    table = table.select(dataset.schema.names).cast(dataset.schema)
    if replaced is None:
        lance.write_dataset(table, dataset, mode="append", max_rows_per_file=ROWS_PER_FILE)
        return
    merge = dataset.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    names = literals(sorted(replaced))
    merge.when_not_matched_by_source_delete(f"parent IN ({names})").execute(table)


def list_versions(dataset: Any) -> list[dict[str, Any]]:
    """The versions that are kept, oldest first: `version`, `timestamp`, `passages`, `tags`."""
    tags: dict[int, list[str]] = {}
    for name, tag in dataset.tags.list().items():
        tags.setdefault(tag["version"], []).append(name)
    found = []
    for entry in dataset.versions():
        counts = {
            name: int(entry["metadata"][f"total_{name}_rows"]) for name in ("data_file", "deletion_file")
        }
        found.append(
            {
                "version": entry["version"],
                "timestamp": entry["timestamp"],
                "passages": counts["data_file"] - counts["deletion_file"],
                "tags": tags.get(entry["version"], []),
            }
        )
    return found
