"""Bulk builds: shards, resumption, joining, faults."""

import errno
import json
from types import SimpleNamespace

import pytest
import torch
from clara import shards_clara
from clara.data.bulk import build
from clara.data.bulk.build import (
    BUILD,
    build_shards,
    chunks,
    count_done,
    discard,
    is_done,
    join,
    shard_folder,
)
from clara.data.bulk.plan import begin, survey
from clara.manifest_clara import MANIFEST
from clara.memory_clara import CorpusMemory
from clara.storage_clara import locked
from store_helpers import Nursery
from test_bulk_plan import make_plan, write


class Model:
    """Stands in for a model: a memory is made of the text's length and its bytes."""

    processor = SimpleNamespace(split_documents=lambda texts, headers: [[text] for text in texts])

    def memory_fingerprint(self):
        return "f"

    def compress_texts(self, texts, batch_size):
        return torch.tensor([[len(text), *text.encode()[:7]] for text in texts]).float().view(-1, 2, 4)


@pytest.fixture(autouse=True)
def fresh():
    build._opened.cache_clear()


@pytest.fixture
def output(tmp_path):
    """A folder with the plan of ten documents in four shards."""
    (tmp_path / "rows").mkdir()
    corpus = survey([write(tmp_path / "rows", 4, 6)], 3)
    begin(tmp_path / "store" / BUILD, make_plan(corpus))
    return tmp_path / "store"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("[cmp]*")}


def test_shards_in_any_order_make_the_same_store(output, tmp_path):
    begin(tmp_path / "other" / BUILD, build.read_plan(output / BUILD))
    build_shards(output, range(4), Model)
    assert join(output) == 10
    for shards in ([3, 1], [2], [0]):
        build_shards(tmp_path / "other", shards, Model)
    assert join(tmp_path / "other") == 10
    assert contents(output) == contents(tmp_path / "other")
    memory = CorpusMemory.from_pretrained(output, fingerprint="f")
    assert memory.document_ids == [f"d{row}" for row in range(10)]
    assert torch.equal(memory[:], Model().compress_texts(memory.texts, 4))
    assert memory.base == {"name": "tiny", "revision": None} and not (output / BUILD).exists()


def test_finished_shards_are_not_built_again(output, monkeypatch):
    plan = build.read_plan(output / BUILD)
    build_shards(output, [1, 3], Model)
    assert [is_done(output, shard) for shard in range(4)] == [False, True, False, True]
    assert count_done(output, plan) == 3 + 1
    with pytest.raises(FileNotFoundError, match="2 shards are not done, first 0"):
        join(output)
    seen, plain = [], Model.compress_texts
    monkeypatch.setattr(
        Model, "compress_texts", lambda self, texts, size: (seen.extend(texts), plain(self, texts, size))[1]
    )
    build_shards(output, range(4), Model)
    assert len(seen) == 6 and count_done(output, plan) == 10
    build_shards(output, range(4), lambda: pytest.fail("opened a model for nothing"))


def test_a_stopped_join_goes_on(output, monkeypatch):
    build_shards(output, range(4), Model)
    monkeypatch.setattr(build, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        join(output)
    assert len(list(output.glob("memory-*"))) == 4 and not (output / MANIFEST).exists()
    with pytest.raises(FileNotFoundError, match="unfinished"):
        CorpusMemory.from_pretrained(output)
    monkeypatch.undo()
    assert join(output) == 10 and len(CorpusMemory.from_pretrained(output)) == 10


def test_a_full_disk_leaves_the_shard_undone(output, monkeypatch):
    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards_clara, "sync", fail)
    with pytest.raises(OSError, match="No space left"):
        build_shards(output, [0], Model)
    monkeypatch.undo()
    assert not is_done(output, 0) and not list(shard_folder(output, 0).glob("*.tmp"))
    build_shards(output, range(4), Model)
    assert join(output) == 10


def test_another_process_at_the_same_shard_is_told(output):
    with locked(shard_folder(output, 2)), pytest.raises(RuntimeError, match="Another writer is at work"):
        build_shards(output, [2], Model)


def test_a_build_is_not_thrown_away_under_its_workers(output):
    build_shards(output, [0], Model)
    with locked(shard_folder(output, 2)), pytest.raises(RuntimeError, match="Another writer is at work"):
        discard(output)
    assert is_done(output, 0)
    discard(output)
    assert not (output / BUILD).exists()
    discard(output)


def test_another_model_is_refused(output):
    class Other(Model):
        def memory_fingerprint(self):
            return "g"

    with pytest.raises(ValueError, match="not the one with which the build was begun"):
        build_shards(output, range(4), Other)


def test_ids_of_passages_that_clash_are_met_before_any_work(tmp_path):
    rows = [
        {"id": "a", "text": "a long text"},
        {"id": "b", "text": "other"},
        {"id": "a#1", "text": "a third"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="'a#1' is what a part of the document 'a' is called"):
        survey([tmp_path / "rows.jsonl"], 1)


def test_threads_are_those_of_the_plan_and_then_as_before(output, monkeypatch):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(build, "build_shard", lambda *_: seen.append(torch.get_num_threads()))
    monkeypatch.setattr(build, "read_plan", lambda _: make_plan(None, threads=3))
    build_shards(output, [0], Model)
    assert seen == [3] and torch.get_num_threads() == before


def test_chunks():
    assert list(chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]


KILL = """
import time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_bulk_build import Model
from clara.data.bulk.build import build_shards, join
def work(folder):
    build_shards(Path(folder), range(4), Model)
    join(Path(folder))
"""


@pytest.fixture(scope="module")
def nursery():
    from pathlib import Path

    nursery = Nursery(KILL.replace("{tests!r}", repr(str(Path(__file__).parent))))
    yield nursery
    nursery.close()


def check_killed(nursery, folder, seconds, whole):
    """Kills a build and runs it to its end: the store is that of a build that nobody killed."""
    (folder / "rows").mkdir(parents=True)
    begin(folder / "store" / BUILD, make_plan(survey([write(folder / "rows", 200, 200)], 100)))
    killed = nursery.kill_after(folder / "store", seconds)
    if (folder / "store" / MANIFEST).exists():
        assert contents(folder / "store").items() >= whole.items()
        return False
    assert killed
    with pytest.raises(FileNotFoundError):
        CorpusMemory.from_pretrained(folder / "store")
    build_shards(folder / "store", range(4), Model)
    assert join(folder / "store") == 400
    assert contents(folder / "store") == whole
    return True


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    (folder / "rows").mkdir()
    begin(folder / "store" / BUILD, make_plan(survey([write(folder / "rows", 200, 200)], 100)))
    build_shards(folder / "store", range(4), Model)
    join(folder / "store")
    return contents(folder / "store")


def test_kill_during_a_bulk_build(nursery, whole, tmp_path):
    for trial in range(4):
        check_killed(nursery, tmp_path / str(trial), 0.01 + 0.02 * trial, whole)


@pytest.mark.slow
def test_kill_during_a_bulk_build_at_many_moments(nursery, whole, tmp_path):
    killed = [check_killed(nursery, tmp_path / str(trial), 0.003 * trial, whole) for trial in range(60)]
    assert sum(killed) >= 5
