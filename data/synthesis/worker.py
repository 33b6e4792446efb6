"""Runs the items of one rank: many at once, each exactly once, with progress on disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .machine import all_or_cancel
from .store import CachedTeacher, RankStore
from .teacher import Teacher, TeacherStoppedError, TeacherUnavailableError

OpenTeacher = Callable[[], AbstractAsyncContextManager[Teacher]]


@dataclass(frozen=True)
class Item:
    """One piece of work.

    Attributes:
        id: its id in its source.
        text: what the work is done on.
        extra: whatever else the job needs, as a JSON object.
    """

    id: str
    text: str
    extra: dict[str, Any]

    @property
    def key(self) -> str:
        """A hash of id, text and extra: equal items are done once."""
        text = json.dumps([self.id, self.text, self.extra], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class Job(Protocol):
    """What is done with one item."""

    async def run(self, item: Item, teacher: Teacher) -> tuple[dict[str, Any], bool]:
        """Returns the item's output row and whether it was accepted."""
        ...


def run_rank(
    items: Iterable[Item],
    job: Job,
    open_teacher: OpenTeacher,
    folder: str | Path,
    rank: int = 0,
    items_at_once: int = 64,
    chunk_size: int = 1000,
) -> dict[str, int]:
    """Runs all items of a rank that are not done yet.

    Args:
        items: the rank's items, read lazily.
        job: what is done with each.
        open_teacher: opens the teacher, once.
        folder: the output folder.
        rank: the rank.
        items_at_once: the most items in flight.
        chunk_size: rows in one output file.

    Returns:
        The rank's totals over all runs: items, accepted, calls, prompt_tokens, completion_tokens.

    Raises:
        TeacherUnavailableError: if no call can succeed.
        TeacherStoppedError: if the teacher stopped answering; a rerun goes on.
        BlockingIOError: if another process works on this rank.
    """
    with RankStore(folder, rank, chunk_size) as store:
        progress = _Progress(Path(folder) / "progress" / f"{rank:05d}.json", store)
        try:
            asyncio.run(_run(items, job, open_teacher, store, items_at_once, progress))
        except (TeacherUnavailableError, TeacherStoppedError) as error:
            progress.write(f"stopped: {error}")
            raise
        store.flush()
        progress.write("done")
        return store.totals()


async def _run(
    items: Iterable[Item],
    job: Job,
    open_teacher: OpenTeacher,
    store: RankStore,
    at_once: int,
    progress: _Progress,
) -> None:
    async with open_teacher() as teacher:
        feed = _Feed(items, store)
        reporter = asyncio.create_task(progress.keep_writing())
        try:
            await all_or_cancel(*(_work(feed, job, teacher, store) for _ in range(at_once)))
        finally:
            reporter.cancel()
            with suppress(asyncio.CancelledError):
                await reporter


async def _work(feed: _Feed, job: Job, teacher: Teacher, store: RankStore) -> None:
    """One of the workers that share the feed."""
    async for item in feed:
        key = item.key
        row, accepted = await job.run(item, CachedTeacher(teacher, store, key))
        store.finish(key, row, accepted)
        feed.in_flight.discard(key)


class _Feed:
    """Hands each new item to one worker, and reads only as fast as they take them."""

    def __init__(self, items: Iterable[Item], store: RankStore) -> None:
        self._items, self._store, self.in_flight = iter(items), store, set()

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        for item in self._items:
            key = item.key
            if key not in self.in_flight and not self._store.is_done(key):
                self.in_flight.add(key)
                return item
        raise StopAsyncIteration


class _Progress:
    """Writes a rank's totals to a file, for whoever watches."""

    def __init__(self, path: Path, store: RankStore) -> None:
        self.path, self.store, self.started = path, store, time.time()
        self.first = store.totals()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write("running")

    def write(self, state: str) -> None:
        """Writes the totals now."""
        totals = self.store.totals()
        seconds = time.time() - self.started
        new = {f"new_{name}": value - self.first[name] for name, value in totals.items()}
        partial = self.path.with_suffix(".partial")
        partial.write_text(
            json.dumps({**totals, **new, "seconds": seconds, "state": state}), encoding="utf-8"
        )
        os.replace(partial, self.path)

    async def keep_writing(self) -> None:
        """Writes the totals every second until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            self.write("running")
