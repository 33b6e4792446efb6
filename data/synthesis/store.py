"""What a rank has done so far, on disk: finished calls, finished items, and whole chunks of output rows.

One SQLite file a rank. Every finished call is committed before its reply is used, and every finished item
before the next step sees it, so a process killed at any moment loses the calls in flight and nothing else.
Rows leave for their chunk file in three steps (number the chunk, write the file whole, forget the rows),
each of which can be repeated.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from .teacher import Reply, Request, Teacher

_TABLES = """
CREATE TABLE IF NOT EXISTS calls (key TEXT PRIMARY KEY, item TEXT, reply TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS calls_of_item ON calls (item);
CREATE TABLE IF NOT EXISTS items (key TEXT PRIMARY KEY, row TEXT, chunk INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waiting_items ON items (chunk) WHERE row IS NOT NULL;
CREATE TABLE IF NOT EXISTS totals (
    one INTEGER PRIMARY KEY, items INTEGER, accepted INTEGER, calls INTEGER, prompt_tokens INTEGER,
    completion_tokens INTEGER
);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0, 0, 0, 0);
"""
TOTALS = ("items", "accepted", "calls", "prompt_tokens", "completion_tokens")
_COUNT_CALL = (
    "UPDATE totals SET calls = calls + 1, prompt_tokens = prompt_tokens + ?, "
    "completion_tokens = completion_tokens + ?"
)
_COUNT_ITEM = "UPDATE totals SET items = items + 1, accepted = accepted + ?"


class RankStore:
    """The state of one rank. Only one process may open it.

    Args:
        folder: the synthesis' output folder; the state is kept in `state/`, the rows in `raw/`.
        rank: the rank.
        chunk_size: rows in one chunk file.

    Raises:
        BlockingIOError: if another process has it open.
    """

    def __init__(self, folder: str | Path, rank: int, chunk_size: int = 1000) -> None:
        self.rank, self.chunk_size, self.raw = rank, chunk_size, Path(folder) / "raw"
        path = Path(folder) / "state" / f"{rank:05d}.sqlite"
        for directory in (self.raw, path.parent):
            directory.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        try:
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_TABLES)
        except sqlite3.OperationalError as error:
            self._database.close()
            raise BlockingIOError(f"rank {rank} of {folder} is open in another process ({error}).") from error
        self._waiting = 0
        self._restore()

    def __enter__(self) -> RankStore:
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
        with _Transaction(self._database):
            values = (key, item, json.dumps(asdict(reply)))
            self._database.execute("INSERT OR IGNORE INTO calls VALUES (?, ?, ?)", values)
            self._database.execute(_COUNT_CALL, (reply.prompt_tokens, reply.completion_tokens))

    def is_done(self, item: str) -> bool:
        """Whether the item's row is kept or written."""
        return self._database.execute("SELECT 1 FROM items WHERE key = ?", (item,)).fetchone() is not None

    def finish(self, item: str, row: Mapping[str, Any], accepted: bool) -> None:
        """Keeps an item's row; a full chunk is written to its file."""
        with _Transaction(self._database):
            self._database.execute("INSERT INTO items VALUES (?, ?, NULL)", (item, json.dumps(row)))
            self._database.execute(_COUNT_ITEM, (int(accepted),))
        self._waiting += 1
        if self._waiting >= self.chunk_size:
            self.flush()

    def flush(self) -> None:
        """Writes the waiting rows to a chunk file, whole or not at all."""
        if self._waiting:
            (last,) = self._database.execute("SELECT COALESCE(MAX(chunk), -1) FROM items").fetchone()
            update = "UPDATE items SET chunk = ? WHERE row IS NOT NULL AND chunk IS NULL"
            self._database.execute(update, (last + 1,))
            self._write_chunk(last + 1)
            self._waiting = 0

    def totals(self) -> dict[str, int]:
        """Returns items, accepted items, calls and tokens of all runs so far."""
        values = self._database.execute(f"SELECT {', '.join(TOTALS)} FROM totals").fetchone()
        return dict(zip(TOTALS, values, strict=True))

    def _restore(self) -> None:
        """Finishes the chunk that a killed process may have begun, and counts the rows that wait."""
        begun = "SELECT DISTINCT chunk FROM items WHERE row IS NOT NULL AND chunk IS NOT NULL"
        for (chunk,) in self._database.execute(begun).fetchall():
            self._write_chunk(chunk)
        waiting = "SELECT COUNT(*) FROM items WHERE row IS NOT NULL"
        (self._waiting,) = self._database.execute(waiting).fetchone()

    def _write_chunk(self, chunk: int) -> None:
        path = self.raw / f"{self.rank:05d}-{chunk:05d}.jsonl"
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            rows = self._database.execute("SELECT row FROM items WHERE chunk = ? ORDER BY key", (chunk,))
            file.writelines(f"{row}\n" for (row,) in rows)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        with _Transaction(self._database):
            forget = "DELETE FROM calls WHERE item IN (SELECT key FROM items WHERE chunk = ?)"
            self._database.execute(forget, (chunk,))
            self._database.execute("UPDATE items SET row = NULL WHERE chunk = ?", (chunk,))


class CachedTeacher:
    """A teacher that answers from a rank's store where it can, and keeps what the real one answers.

    Args:
        teacher: who answers what is new.
        store: the rank's store.
        item: the key of the item for which the calls are made.
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


class _Transaction:
    """Commits what happens inside it as one, or nothing of it."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database

    def __enter__(self) -> None:
        self.database.execute("BEGIN")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.database.execute("COMMIT" if kind is None else "ROLLBACK")
