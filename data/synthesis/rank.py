"""Runs the items of one rank: many at once, each exactly once, with every finished call and item on disk.

A rank has one SQLite file. A finished call is committed before its reply is used, and a finished item before
the next one is begun, so a process killed at any moment loses the calls in flight and nothing else.
"""

import asyncio
import hashlib
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from datatrove.data import Document

from ..writers import whole_file
from .teacher import Reply, Request, Teacher, TeacherStoppedError, TeacherUnavailableError, all_or_cancel

OpenTeacher = Callable[[], AbstractAsyncContextManager[Teacher]]
Job = Callable[[Document, Teacher], Awaitable[tuple[dict[str, Any], bool]]]
TOTALS = ("items", "accepted", "calls", "prompt_tokens", "completion_tokens")

_TABLES = """
CREATE TABLE IF NOT EXISTS calls (key TEXT PRIMARY KEY, item TEXT, reply TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS calls_of_item ON calls (item);
CREATE TABLE IF NOT EXISTS items (key TEXT PRIMARY KEY, row TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, value INTEGER);
"""
_COUNT = "INSERT INTO totals VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"


class RankStore:
    """The state of one rank, which only one process may open (BlockingIOError).

    It is kept in `state/` of the synthesis' output folder; the rows go to `raw/`, the totals to `progress/`.
    """

    def __init__(self, folder: str | Path, rank: int) -> None:
        name = f"{rank:05d}"
        self._rows = Path(folder) / "raw" / f"{name}.jsonl"
        self._progress, self._reported = Path(folder) / "progress" / f"{name}.json", 0.0
        path = Path(folder) / "state" / f"{name}.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=1.0)
        try:
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_TABLES)
            with self._database:
                self._count(items=0)  # takes the lock
        except sqlite3.OperationalError as error:
            self._database.close()
            raise BlockingIOError(f"rank {rank} of {folder} is open in another process ({error}).") from error

    def __enter__(self) -> "RankStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def reply(self, key: str) -> Reply | None:
        """Returns the reply of a finished call, or None."""
        found = self._database.execute("SELECT reply FROM calls WHERE key = ?", (key,)).fetchone()
        return Reply(**json.loads(found[0])) if found else None

    def keep_reply(self, key: str, item: str, reply: Reply) -> None:
        """Keeps a finished call of an item, and counts its tokens."""
        with self._database:
            values = (key, item, json.dumps(asdict(reply)))
            self._database.execute("INSERT OR IGNORE INTO calls VALUES (?, ?, ?)", values)
            self._count(calls=1, prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens)

    def is_done(self, item: str) -> bool:
        """Whether the item's row is kept."""
        return self._database.execute("SELECT 1 FROM items WHERE key = ?", (item,)).fetchone() is not None

    def finish(self, item: str, row: Mapping[str, Any], accepted: bool) -> None:
        """Keeps an item's row and forgets its calls, which nobody asks for again."""
        with self._database:
            self._database.execute("INSERT INTO items VALUES (?, ?)", (item, json.dumps(row)))
            self._database.execute("DELETE FROM calls WHERE item = ?", (item,))
            self._count(items=1, accepted=int(accepted))

    def totals(self) -> dict[str, int]:
        """Returns items, accepted items, calls and tokens of all runs so far."""
        return dict.fromkeys(TOTALS, 0) | dict(self._database.execute("SELECT name, value FROM totals"))

    def write_rows(self) -> None:
        """Writes the rows of all finished items to `raw/`, whole or not at all."""
        rows = self._database.execute("SELECT row FROM items ORDER BY key")
        with whole_file(self._rows) as partial, partial.open("w", encoding="utf-8") as file:
            file.writelines(f"{row}\n" for (row,) in rows)

    def report(self, state: str, every: float = 0.0) -> None:
        """Writes the totals to `progress/` for whoever watches, at most once in `every` seconds."""
        if time.monotonic() - self._reported >= every:
            with whole_file(self._progress) as partial:
                partial.write_text(json.dumps({**self.totals(), "state": state}), encoding="utf-8")
            self._reported = time.monotonic()

    def _count(self, **more: int) -> None:
        self._database.executemany(_COUNT, more.items())


class CachedTeacher:
    """A teacher that answers from a rank's store where it can, and keeps what the real one answers.

    `item` is the key of the item for which the calls are made.
    """

    def __init__(self, teacher: Teacher, store: RankStore, item: str) -> None:
        self.teacher, self.store, self.item = teacher, store, item

    async def complete(self, request: Request) -> Reply:
        """Answers one request; see `Teacher.complete`."""
        key = request.key()
        reply = self.store.reply(key)
        if reply is None:
            reply = await self.teacher.complete(request)
            self.store.keep_reply(key, self.item, reply)
        return reply


def run_rank(
    items: Iterable[Document],
    job: Job,
    open_teacher: OpenTeacher,
    folder: str | Path,
    rank: int = 0,
    items_at_once: int = 64,
) -> dict[str, int]:
    """Runs all items of a rank that are not done yet.

    Args:
        items: the rank's items, read lazily; equal ones are done once.
        job: makes of an item its output row, and says whether it was accepted.
        open_teacher: opens the teacher, once.
        folder: the output folder.
        rank: the rank.
        items_at_once: the most items in flight.

    Returns:
        The rank's totals over all runs: items, accepted, calls, prompt_tokens, completion_tokens.

    Raises:
        TeacherUnavailableError: if no call can succeed.
        TeacherStoppedError: if the teacher stopped answering; a rerun goes on.
        BlockingIOError: if another process works on this rank.
    """
    with RankStore(folder, rank) as store:
        store.report("running")
        try:
            asyncio.run(_run(items, job, open_teacher, store, items_at_once))
        except (TeacherUnavailableError, TeacherStoppedError) as error:
            store.report(f"stopped: {error}")
            raise
        finally:
            store.write_rows()
        store.report("done")
        return store.totals()


async def _run(
    items: Iterable[Document], job: Job, open_teacher: OpenTeacher, store: RankStore, at_once: int
) -> None:
    in_flight: set[str] = set()
    new = _new_items(items, store, in_flight)

    async def work() -> None:
        """One of the workers that share the items."""
        for key, item in new:
            row, accepted = await job(item, CachedTeacher(teacher, store, key))
            store.finish(key, row, accepted)
            in_flight.discard(key)
            store.report("running", every=1.0)

    async with open_teacher() as teacher:
        await all_or_cancel(*(work() for _ in range(at_once)))


def _new_items(
    items: Iterable[Document], store: RankStore, in_flight: set[str]
) -> Iterator[tuple[str, Document]]:
    """Hands out each new item with its key, and reads only as fast as they are taken."""
    for item in items:
        key = item_key(item)
        if key not in in_flight and not store.is_done(key):
            in_flight.add(key)
            yield key, item


def item_key(item: Document) -> str:
    """A hash of id, text and metadata."""
    text = json.dumps([item.id, item.text, item.metadata], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
