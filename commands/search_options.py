"""Options of a search: which passages may be found, by words too, and in which back end."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..modeling_clara import ClaraForRetrievalGeneration
    from ..store import CorpusStore
    from ..store.milvus import MilvusMemory

TOKEN = "MILVUS_TOKEN"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
TEXT_COLUMNS = ("id", "document_id", "parent")


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--where`, `--hybrid` and `--milvus`."""
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="FILTER",
        help="only passages with this metadata: NAME=VALUE, or a JSON object such as "
        '\'{"year": {">=": 1890}}\'; may be given several times, then all must hold',
    )
    parser.add_argument(
        "--hybrid",
        nargs="?",
        type=float,
        const=0.5,
        metavar="WEIGHT",
        help="search by words too: BM25 is added to the cosines with this weight (0 to 1; 0.5 if none is "
        "given)",
    )
    add_milvus_argument(
        parser, "search in Milvus, where `clara build-memory --milvus` put the search vectors"
    )


def add_milvus_argument(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Adds `--milvus`."""
    parser.add_argument(
        "--milvus",
        metavar="URI",
        help=f"{purpose}: a file that ends in .db (milvus-lite), or the address of a server, whose token is "
        f"taken from the environment variable {TOKEN}",
    )


def milvus_token() -> str:
    """The token of the Milvus server; empty where there is none."""
    return os.environ.get(TOKEN, "")


def search_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a search is told of `--where` and `--hybrid`, checked; nothing that was not given."""
    options: dict[str, Any] = {}
    if arguments.where:
        options["where"] = read_where(arguments.where)
    if arguments.hybrid is not None:
        from ..store.ranking import check_hybrid

        options["hybrid"] = check_hybrid(arguments.hybrid)
    return options


def read_where(entries: list[str]) -> dict[str, Any]:
    """The filter of several `--where`, all of which must hold: JSON objects or NAME=VALUE.

    A value is read as JSON where it is JSON (`year=1890` is a number, `year="1890"` a text,
    `year={">=": 1890}` a range, `language=["en", "de"]` a choice) and as a text otherwise; ids are texts. An
    entry that is neither, a name that occurs twice, and no filter (see `check_where`) are a ValueError.
    """
    from ..store.ranking import check_where

    where: dict[str, Any] = {}
    for entry in entries:
        for name, condition in _conditions(entry).items():
            if name in where:
                raise ValueError(
                    f"`--where` names {name!r} twice: give one condition, such as "
                    f'\'{name}={{">=": 1890, "<": 1900}}\'.'
                )
            where[name] = condition
    check_where(where)
    return where


def _conditions(entry: str) -> dict[str, Any]:
    if entry.lstrip().startswith("{"):
        try:
            return json.loads(entry)
        except ValueError as error:
            raise ValueError(f"`--where` {entry} begins as a JSON object but is none: {error}.") from error
    name, equals, value = entry.partition("=")
    if not name or not equals:
        raise ValueError(
            f"`--where` must be NAME=VALUE or a JSON object, got {entry!r}: write language=en, or "
            '\'{"year": {">=": 1890}}\'.'
        )
    return {name: _value(name, value)}


def _value(name: str, text: str) -> Any:
    """A value as JSON says it, but a plain one of a column of texts is a text: ids may be digits alone."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if name in TEXT_COLUMNS and not isinstance(value, (str, list, dict)) else value


def check_memory(place: str) -> None:
    """Raises a FileNotFoundError, before a model is loaded, if there cannot be a corpus memory."""
    if not Path(place).expanduser().is_dir() and "://" not in place and not REPOSITORY.fullmatch(place):
        raise FileNotFoundError(
            f"{place} is no folder, nor a dataset repository (owner/name): make one with `clara build-memory "
            f"FILES --output {place}`."
        )


def open_memory(model: ClaraForRetrievalGeneration, place: str, milvus: str | None = None) -> Any:
    """Opens a stored corpus memory: a plain one, or a store, to be searched in Milvus if an address is given.

    It is an error if there is none, another model made it, Milvus has none of it, or a package is missing.
    """
    if milvus is None and not is_store(place):
        return model.load_memory(str(Path(place).expanduser()))
    store = open_store(place, model.memory_fingerprint())
    if milvus is None:
        return store
    from ..store.milvus import MilvusMemory

    return MilvusMemory(store, milvus, token=milvus_token())


def is_store(place: str) -> bool:
    """Whether a Lance table lies in a folder, or the place is an address of object storage."""
    return "://" in place or (Path(place).expanduser() / "_versions").is_dir()


def need_store() -> None:
    """Raises ModuleNotFoundError, which says what to install, if there is no Lance."""
    from importlib.util import find_spec

    if find_spec("lance") is None:
        raise ModuleNotFoundError("A store needs Lance: `pip install 'clara-rag[store]'`.")


def open_store(place: str, fingerprint: str | None = None) -> CorpusStore:
    """Opens a store; an error if there is none, another model made it, or pylance is not installed."""
    from ..store import CorpusStore

    place = place if "://" in place else str(Path(place).expanduser())
    return CorpusStore.open(place, fingerprint, create=False)


def check_milvus(uri: str) -> None:
    """Connects once, so that a wrong address (ConnectionError) is met before hours of work."""
    from ..store.milvus import connect

    connect(uri, milvus_token()).close()


def fill_milvus(store: CorpusStore, uri: str) -> MilvusMemory:
    """Puts the search vectors of a store into Milvus, which needs pymilvus."""
    from ..store.milvus import MilvusMemory

    return MilvusMemory.build(store, uri, token=milvus_token())


def question_texts(file: Path) -> list[str]:
    """The different questions of a file, in order; a row without one is an error."""
    from ..data.readers import read_rows

    found = {}
    for place, row in read_rows(file):
        if not isinstance(row.get("question"), str):
            raise ValueError(f"{place}: a row with a text `question` is needed, got {sorted(row)}.")
        found[row["question"]] = None
    return list(found)
