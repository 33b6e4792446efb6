import asyncio
import json
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("pydantic")

from clara.data.synthesis.store import CachedTeacher, RankStore
from clara.data.synthesis.teacher import Reply, Request, TeacherStoppedError
from clara.data.synthesis.worker import Item, run_rank

REQUEST = Request(({"role": "user", "content": "a"},))


class Counting:
    """Counts its calls; stops after `limit`."""

    def __init__(self, limit=10**9):
        self.calls, self.limit = 0, limit

    async def complete(self, request):
        await asyncio.sleep(0)
        self.calls += 1
        if self.calls > self.limit:
            raise TeacherStoppedError("gone")
        return Reply(request.messages[0]["content"], "stop", 3, 2)


class ThreeCalls:
    async def run(self, item, teacher):
        texts = [
            (await teacher.complete(Request(({"role": "user", "content": f"{item.text} {n}"},)))).text
            for n in range(3)
        ]
        return {"id": item.id, "texts": texts}, True


def opened(teacher):
    @asynccontextmanager
    async def open_teacher():
        yield teacher

    return open_teacher


def rows(folder):
    return [json.loads(line) for file in sorted((folder / "raw").glob("*.jsonl")) for line in file.open()]


def items(count):
    return [Item(str(n), f"text {n}", {}) for n in range(count)]


def test_finished_calls_are_answered_from_disk(tmp_path):
    teacher = Counting()
    for _ in range(2):
        with RankStore(tmp_path, 0) as store:
            reply = asyncio.run(CachedTeacher(teacher, store, "item").complete(REQUEST))
            assert reply == Reply("a", "stop", 3, 2)
            totals = store.totals()
    assert teacher.calls == 1
    assert (totals["calls"], totals["prompt_tokens"], totals["completion_tokens"]) == (1, 3, 2)


def test_chunks_are_whole_and_calls_are_forgotten_with_them(tmp_path):
    with RankStore(tmp_path, 7, chunk_size=2) as store:
        store.keep_reply("key", "a", Reply("x"))
        for item in "abc":
            store.finish(item, {"id": item}, item != "b")
        assert [f.name for f in (tmp_path / "raw").iterdir()] == ["00007-00000.jsonl"]
        assert store.reply("key") is None
        assert store.is_done("a") and store.is_done("c") and not store.is_done("d")
        store.flush()
        store.flush()
        assert store.totals()["accepted"] == 2
    assert [row["id"] for row in rows(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize("at", ["before", "after"])
def test_crash_around_the_writing_of_a_chunk_loses_and_doubles_nothing(tmp_path, monkeypatch, at):
    import clara.data.synthesis.store as module

    replace = module.os.replace

    def crash(source, target):
        if at == "after":
            replace(source, target)
        raise KeyboardInterrupt

    with RankStore(tmp_path, 0, chunk_size=2) as store:
        store.finish("a", {"id": "a"}, True)
        monkeypatch.setattr(module.os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            store.finish("b", {"id": "b"}, True)
        monkeypatch.setattr(module.os, "replace", replace)
    with RankStore(tmp_path, 0, chunk_size=2) as store:
        assert [row["id"] for row in rows(tmp_path)] == ["a", "b"]
        store.finish("c", {"id": "c"}, True)
        store.flush()
    assert [row["id"] for row in rows(tmp_path)] == ["a", "b", "c"]


def test_one_rank_is_run_by_one_process(tmp_path):
    with RankStore(tmp_path, 0), pytest.raises(BlockingIOError, match="rank 0 .* is open in another process"):
        RankStore(tmp_path, 0)


def test_rank_goes_on_after_the_teacher_stopped(tmp_path):
    first = Counting(limit=20)
    with pytest.raises(TeacherStoppedError):
        run_rank(items(10), ThreeCalls(), opened(first), tmp_path, items_at_once=4, chunk_size=3)
    second = Counting()
    totals = run_rank(items(10), ThreeCalls(), opened(second), tmp_path, items_at_once=4, chunk_size=3)
    assert second.calls == 30 - 20
    assert totals["calls"] == 30
    assert sorted(int(row["id"]) for row in rows(tmp_path)) == list(range(10))
    assert json.loads((tmp_path / "progress/00000.json").read_text())["state"] == "done"


def test_more_items_later_and_equal_items_once(tmp_path):
    teacher = Counting()
    run_rank(items(3), ThreeCalls(), opened(teacher), tmp_path)
    run_rank(items(5) + items(5), ThreeCalls(), opened(teacher), tmp_path)
    assert teacher.calls == 15
    assert len(rows(tmp_path)) == 5


def test_items_are_read_only_as_fast_as_they_are_worked_on(tmp_path):
    read, most = [], []

    def watched():
        for item in items(200):
            read.append(item)
            yield item

    class Watching(ThreeCalls):
        async def run(self, item, teacher):
            result = await super().run(item, teacher)
            most.append(len(read) - len(most))
            return result

    run_rank(watched(), Watching(), opened(Counting()), tmp_path, items_at_once=5)
    assert max(most) <= 6


def test_items_differ_by_id_text_and_extra():
    keys = {
        Item("1", "a", {}).key,
        Item("2", "a", {}).key,
        Item("1", "b", {}).key,
        Item("1", "a", {"x": 1}).key,
    }
    assert len(keys) == 4
    assert Item("1", "\ud800", {}).key == Item("1", "\ud800", {}).key
