"""Look into a stored corpus memory and keep it up to date.

A memory that `clara build-memory` made is a table with versions: documents are added, replaced and deleted in
place, at once or not at all, while others go on reading it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from .display import console, show_skipped
from .help import HelpFormatter
from .models import add_model_arguments, load_model, warn_untrained
from .search_options import check_memory, is_store, open_store, question_texts

if TYPE_CHECKING:
    from ..store import CorpusStore

FILES = (".jsonl", ".parquet")
INDEXES = ("IVF_RQ", "IVF_PQ", "IVF_HNSW_SQ", "IVF_FLAT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions of `clara memory`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")

    def action(name: str, do: Callable, summary: str, model: bool = False) -> Callable:
        added = actions.add_parser(name, help=summary, description=summary, formatter_class=HelpFormatter)
        added.add_argument("folder", metavar="FOLDER", help="the stored corpus memory")
        added.set_defaults(do=do)
        if model:
            add_model_arguments(added)
        return added.add_argument

    add = action("list", show_documents, "list the documents, or the versions")
    add("--limit", type=int, default=20, help="most documents to show; 0: all")
    add("--versions", action="store_true", help="the versions that are kept, instead of the documents")
    add("--json", action="store_true", help="one JSON object a line")
    add = action("show", show_document, "show a document: its passages, metadata and number of vectors")
    add("document_id", metavar="ID", help="id of a document or passage")
    add("--json", action="store_true", help="one JSON object a passage")
    for name, method, summary in (
        ("add", "append", "add new documents; one that is there already is refused"),
        ("update", "upsert", "add documents in place of those of the same ids"),
    ):
        add_document_arguments(action(name, partial(write_documents, method=method), summary, model=True))
    _add_changes(action)


def add_document_arguments(add: Callable) -> None:
    """Adds which documents are read and compressed, as of `clara build-memory`."""
    add("paths", nargs="+", metavar="FILE_OR_FOLDER", help="documents, and folders of them")
    add("--strict", action="store_true", help="stop at what gives no text, instead of listing it")
    add("--batch-size", type=int, default=16, help="passages compressed at once")


def _add_changes(action: Callable) -> None:
    add = action("delete", delete_documents, "delete documents with all their passages")
    add("document_ids", nargs="+", metavar="ID", help="ids of documents or passages")
    add = action("optimize", optimize, "join small files, update the indexes, remove old versions")
    add("--keep-days", type=float, default=1.0, metavar="DAYS", help="versions younger than this stay")
    add = action("index", index, "build an index of the vectors, for large memories", model=True)
    add("--kind", choices=INDEXES, default="IVF_RQ", help="of Lance's indexes")
    add("--recall", type=float, default=0.99, help="share of the exact five nearest to find")
    add("--questions", type=Path, metavar="FILE", help="rows with real ones to choose the effort by")
    add = action("export", export, "write texts and metadata to a file, or all to a plain memory")
    add(
        "--output",
        type=Path,
        required=True,
        metavar="PATH",
        help="a .jsonl or .parquet file, or a folder for a memory that needs no Lance",
    )


def run(arguments: argparse.Namespace) -> None:
    """Does one action."""
    check_memory(arguments.folder)
    if not is_store(arguments.folder):
        raise ValueError(
            f"{arguments.folder} is no store, whose documents can change: make one with `clara build-memory`."
        )
    arguments.do(open_store(arguments.folder), arguments)


def show_documents(store: CorpusStore, arguments: argparse.Namespace) -> None:
    """Lists documents or versions."""
    found = {} if arguments.versions else documents(store)
    shown = list(found.items())[: arguments.limit or None]
    rows = store.versions() if arguments.versions else [summary(store, *entry) for entry in shown]
    if arguments.json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False, default=str))
        return
    if arguments.versions:
        for row in rows:
            tags = f"  {', '.join(row['tags'])}" if row["tags"] else ""
            print(f"{row['version']:>6}  {row['timestamp']:%Y-%m-%d %H:%M}  {row['passages']} passages{tags}")
        return
    for row in rows:
        parts = f"{row['passages']} passages" if row["passages"] > 1 else "1 passage"
        console.print(Text.assemble(row["id"], (f"  {parts}  ", "dim"), row["text"]), no_wrap=True)
    counts = f"{len(rows)} of {len(found)} documents, {len(store)} passages"
    print(f"{counts}, {store.dtype}, version {store.version}")


def documents(store: CorpusStore) -> dict[str, list[int]]:
    """Each document with the places of its passages, in order."""
    places: dict[str, list[int]] = {}
    for place, parent in enumerate(store.parents):
        places.setdefault(parent, []).append(place)
    return places


def summary(store: CorpusStore, document_id: str, places: list[int]) -> dict[str, Any]:
    """Id, number of passages and beginning of a document."""
    text = " ".join(store.texts[places[0]][:200].split())
    return {"id": document_id, "passages": len(places), "text": text}


def show_document(store: CorpusStore, arguments: argparse.Namespace) -> None:
    """Shows the passages of a document."""
    name = arguments.document_id
    columns = zip(store.document_ids, store.parents, strict=True)
    found = [place for place, names in enumerate(columns) if name in names]
    if not found:
        raise ValueError(
            f"`ID` {name!r} is no document of {arguments.folder}: `clara memory list` shows them."
        )
    for row in sorted((store[place] for place in found), key=lambda row: row["order"]):
        row = {**row, "memory": f"{len(row['memory'])} vectors"}
        if arguments.json:
            print(json.dumps(row, ensure_ascii=False))
            continue
        console.print(Text.assemble((row["id"], "bold"), (f"  {row['memory']}", "dim")))
        if row["metadata"]:
            console.print_json(json.dumps(row["metadata"], ensure_ascii=False))
        console.print(row["text"], markup=False)


def write_documents(store: CorpusStore, arguments: argparse.Namespace, method: str) -> None:
    """Adds documents, or puts them in place of those of the same ids."""
    from ..data.documents import read_documents
    from ..data.skipped import Skipped

    skipped = Skipped(arguments.strict, quiet=True)
    rows = list(read_documents(arguments.paths, skipped=skipped))
    show_skipped(skipped)
    model, trained = load_model(arguments.model, arguments.device)
    warn_untrained(trained)
    options = {"batch_size": arguments.batch_size, "show_progress": True}
    count = getattr(store, method)(rows, model, **options)
    done = "added" if method == "append" else "written"
    print(f"{len(rows)} documents ({count} passages) {done}; {arguments.folder} has {len(store)} passages.")


def delete_documents(store: CorpusStore, arguments: argparse.Namespace) -> None:
    """Deletes documents."""
    count = store.delete(arguments.document_ids)
    print(f"{count} passages deleted; {arguments.folder} has {len(store)}.")


def optimize(store: CorpusStore, arguments: argparse.Namespace) -> None:
    """Joins files, updates indexes, removes old versions."""
    if arguments.keep_days < 0:
        raise ValueError(f"`--keep-days` must be at least 0, got {arguments.keep_days}.")
    store.optimize(timedelta(days=arguments.keep_days))
    print(f"{arguments.folder} is optimized: version {store.version}, {len(store)} passages.")


def index(store: CorpusStore, arguments: argparse.Namespace) -> None:
    """Builds an index of the vectors."""
    asked = None
    if arguments.questions is not None:
        texts = question_texts(arguments.questions)
        asked = load_model(arguments.model, arguments.device)[0].question_vectors(texts)
    store.build_index(asked, arguments.recall, index_type=arguments.kind)
    print(f"The index {arguments.kind} of {len(store)} vectors is built.")


def export(store: CorpusStore, arguments: argparse.Namespace) -> None:
    """Writes the passages to a file, or everything to a plain memory."""
    output = arguments.output.expanduser()
    if output.exists():
        raise FileExistsError(f"`--output` {output} is there already: remove it or name another.")
    if output.suffix not in FILES:
        store.to_memory().save_pretrained(output)
    else:
        columns = zip(
            store.document_ids, store.texts, store.parents, store.orders, store.metadata, strict=True
        )
        names = ("id", "text", "parent", "order", "metadata")
        rows = [dict(zip(names, row, strict=True)) for row in columns]
        if output.suffix == ".jsonl":
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            output.write_text("".join(lines), encoding="utf-8")
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            texts = [{**row, "metadata": json.dumps(row["metadata"], ensure_ascii=False)} for row in rows]
            pq.write_table(pa.Table.from_pylist(texts), output)
    print(f"{len(store)} passages are in {output}.")
