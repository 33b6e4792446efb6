import asyncio
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("datatrove")

from clara.data.synthesis.rank import CachedTeacher, RankStore, item_key, run_rank
from clara.data.synthesis.teacher import Reply, Request, TeacherStoppedError
from datatrove.data import Document

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


async def three_calls(item, teacher):
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
    return [Document(text=f"text {n}", id=str(n)) for n in range(count)]


def test_finished_calls_are_answered_from_disk(tmp_path):
    teacher = Counting()
    for _ in range(2):
        with RankStore(tmp_path, 0) as store:
            reply = asyncio.run(CachedTeacher(teacher, store, "item").complete(REQUEST))
            assert reply == Reply("a", "stop", 3, 2)
            totals = store.totals()
    assert teacher.calls == 1
    assert (totals["calls"], totals["prompt_tokens"], totals["completion_tokens"]) == (1, 3, 2)


def test_a_finished_item_keeps_its_row_and_forgets_its_calls(tmp_path):
    with RankStore(tmp_path, 7) as store:
        store.keep_reply("key", "a", Reply("x"))
        store.keep_reply("other", "d", Reply("y"))
        for item in "cab":
            store.finish(item, {"id": item}, item != "b")
        assert store.reply("key") is None and store.reply("other") == Reply("y")
        assert store.is_done("a") and store.is_done("c") and not store.is_done("d")
        assert (store.totals()["items"], store.totals()["accepted"]) == (3, 2)
        assert rows(tmp_path) == []
        store.write_rows()
    assert [file.name for file in (tmp_path / "raw").iterdir()] == ["00007.jsonl"]
    assert [row["id"] for row in rows(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize("at", ["before", "after"])
def test_crash_around_the_writing_of_rows_loses_and_doubles_nothing(tmp_path, monkeypatch, at):
    replace = os.replace

    def crash(source, target):
        if at == "after":
            replace(source, target)
        raise KeyboardInterrupt

    with RankStore(tmp_path, 0) as store:
        store.finish("a", {"id": "a"}, True)
        store.write_rows()
        store.finish("b", {"id": "b"}, True)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", crash)
            store.write_rows()
    assert [row["id"] for row in rows(tmp_path)] == (["a"] if at == "before" else ["a", "b"])
    with RankStore(tmp_path, 0) as store:
        store.finish("c", {"id": "c"}, True)
        store.write_rows()
    assert [row["id"] for row in rows(tmp_path)] == ["a", "b", "c"]


def test_one_rank_is_run_by_one_process(tmp_path):
    with RankStore(tmp_path, 0), pytest.raises(BlockingIOError, match="rank 0 .* is open in another process"):
        RankStore(tmp_path, 0)


def test_rank_goes_on_after_the_teacher_stopped(tmp_path):
    first = Counting(limit=20)
    with pytest.raises(TeacherStoppedError):
        run_rank(items(10), three_calls, opened(first), tmp_path, items_at_once=4)
    second = Counting()
    totals = run_rank(items(10), three_calls, opened(second), tmp_path, items_at_once=4)
    assert second.calls == 30 - 20
    assert totals["calls"] == 30
    assert sorted(int(row["id"]) for row in rows(tmp_path)) == list(range(10))
    assert json.loads((tmp_path / "progress/00000.json").read_text())["state"] == "done"


def test_more_items_later_and_equal_items_once(tmp_path):
    teacher = Counting()
    run_rank(items(3), three_calls, opened(teacher), tmp_path)
    run_rank(items(5) + items(5), three_calls, opened(teacher), tmp_path)
    assert teacher.calls == 15
    assert len(rows(tmp_path)) == 5


def test_items_are_read_only_as_fast_as_they_are_worked_on(tmp_path):
    read, most = [], []

    def watched():
        for item in items(200):
            read.append(item)
            yield item

    async def watching(item, teacher):
        result = await three_calls(item, teacher)
        most.append(len(read) - len(most))
        return result

    run_rank(watched(), watching, opened(Counting()), tmp_path, items_at_once=5)
    assert max(most) <= 6


def test_items_differ_by_id_text_and_metadata():
    items = [
        Document(text="a", id="1"),
        Document(text="a", id="2"),
        Document(text="b", id="1"),
        Document(text="a", id="1", metadata={"x": 1}),
    ]
    assert len(set(map(item_key, items))) == 4
    odd = Document(text="\ud800", id="1")
    assert item_key(odd) == item_key(Document(text="\ud800", id="1"))


MEMORY = """
import resource, tempfile
from contextlib import asynccontextmanager
from functools import partial
from clara.data.synthesis.machine import SynthesisSettings
from clara.data.synthesis.pipeline import synthesize
from clara.data.synthesis.rank import run_rank
from clara.data.synthesis.scripted_teacher import ScriptedTeacher
from datatrove.data import Document

@asynccontextmanager
async def scripted():
    yield ScriptedTeacher()

def documents(count):
    for n in range(count):
        if n % 1000 == 999:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        text = f"The tower of Town {n} was built in {1000 + n % 999} by Anna Smith. It has {n % 97} steps."
        yield Document(text=text, id=str(n))

job = partial(synthesize, settings=SynthesisSettings(("simple",)))
with tempfile.TemporaryDirectory() as folder:
    run_rank(documents(5_000), job, scripted, folder)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_documents():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    kibibytes = [int(line) for line in done.stdout.split()]
    assert len(kibibytes) == 5 and kibibytes[-1] - kibibytes[0] < 2 * 2**10
