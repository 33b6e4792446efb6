import errno

import pytest
import torch
from clara import shards_clara
from clara.manifest_clara import MANIFEST
from clara.memory_clara import CorpusMemory, CorpusMemoryWriter
from store_helpers import Nursery, edit_manifest, make_memory, read_json, same

BASE = {"name": "tiny", "revision": None}
BUILD = """
def work(folder):
    writer = CorpusMemoryWriter(folder, rows_per_shard=300)
    for batch in range(80):
        ids = [f"{batch}-{row}" for row in range(100)]
        writer.add(torch.full((100, 2, 64), float(batch)), ids, ids)
    writer.finish()
"""


def add(writer, memory):
    writer.add(memory[:], memory.texts, memory.document_ids, memory.metadata, memory.parents, memory.orders)


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [3, 4, 3], [9, 1]])
def test_same_store_whatever_the_batches(tmp_path, sizes):
    make_memory(10).save_pretrained(tmp_path / "once", max_shard_size=4 * 32)
    memory = make_memory(10)
    first = 0
    with CorpusMemoryWriter(tmp_path / "parts", "f", BASE, rows_per_shard=4) as writer:
        for size in sizes:
            rows = slice(first, first + size)
            writer.add(memory[rows], memory.texts[rows], memory.document_ids[rows], memory.metadata[rows])
            first += size
        assert len(writer) == 10
        assert same(writer.finish(), memory)
    assert files(tmp_path / "parts") == files(tmp_path / "once")
    assert read_json(tmp_path / "parts") == read_json(tmp_path / "once")


def test_nothing_loads_before_finish(tmp_path):
    with CorpusMemoryWriter(tmp_path, rows_per_shard=2) as writer:
        add(writer, make_memory(5))
        assert len(list(tmp_path.glob("memory-*.safetensors"))) == 2
        with pytest.raises(FileNotFoundError, match="unfinished"):
            CorpusMemory.from_pretrained(tmp_path)
        writer.finish()
    assert len(CorpusMemory.from_pretrained(tmp_path)) == 5


def test_an_error_in_the_block_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), CorpusMemoryWriter(tmp_path, rows_per_shard=2) as writer:
        add(writer, make_memory(5))
        raise KeyError
    assert files(tmp_path) == []
    make_memory(1).save_pretrained(tmp_path)


def test_leaving_without_finish_is_an_error(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"left without `finish\(\)`"),
        CorpusMemoryWriter(tmp_path) as writer,
    ):
        add(writer, make_memory(5))
    assert files(tmp_path) == []


def test_refuses_a_folder_that_holds_a_store(tmp_path):
    make_memory(3).save_pretrained(tmp_path)
    with pytest.raises(FileExistsError, match="holds a stored corpus memory already"):
        CorpusMemoryWriter(tmp_path)
    edit_manifest(tmp_path, format_version=99)
    with pytest.raises(FileExistsError):
        CorpusMemoryWriter(tmp_path)
    (tmp_path / MANIFEST).unlink()
    CorpusMemoryWriter(tmp_path).abort()


def test_a_second_writer_is_told(tmp_path):
    writer = CorpusMemoryWriter(tmp_path)
    with pytest.raises(RuntimeError, match="Another writer"):
        CorpusMemoryWriter(tmp_path)
    with pytest.raises(RuntimeError, match="Another writer"):
        make_memory(1).save_pretrained(tmp_path)
    add(writer, make_memory(2))
    writer.finish()
    make_memory(1).save_pretrained(tmp_path)


def test_finish_in_another_thread_lets_others_in(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    writer = CorpusMemoryWriter(tmp_path)
    add(writer, make_memory(2))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(writer.finish).result()
    make_memory(1).save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (make_memory(2)[:], ["a", "b"], ["d1", "x"]),
            r"`document_ids\[0\]` is 'd1', which was added before",
        ),
        ((make_memory(2)[:], ["a", "b"], ["x", "x"]), "must be unique"),
        ((make_memory(2)[:], ["a"], ["x", "y"]), "`texts`"),
        ((make_memory(2)[:].half(), ["a", "b"], ["x", "y"]), "float16"),
        ((make_memory(2, shape=(2, 5))[:], ["a", "b"], ["x", "y"]), r"\(2, 5\)"),
        ((make_memory(2)[:] / 0, ["a", "b"], ["x", "y"]), r"`memory\[0\]` holds NaN or an infinity"),
        ((torch.empty(0, 2, 4), [], []), "at least one"),
    ],
)
def test_a_refused_add_changes_nothing(tmp_path, arguments, message):
    with CorpusMemoryWriter(tmp_path, "f", BASE) as writer:
        add(writer, make_memory(3))
        with pytest.raises(ValueError, match=message):
            writer.add(*arguments)
        add(writer, make_memory(2, first=3))
        memory = writer.finish()
    assert memory.document_ids == [f"d{row}" for row in range(5)]


def test_nothing_to_finish(tmp_path):
    with pytest.raises(ValueError, match="at least one passage"), CorpusMemoryWriter(tmp_path) as writer:
        writer.finish()
    assert files(tmp_path) == []


def test_a_finished_writer_is_closed(tmp_path):
    with CorpusMemoryWriter(tmp_path) as writer:
        add(writer, make_memory(1))
        writer.finish()
        with pytest.raises(RuntimeError, match="is closed"):
            add(writer, make_memory(1, first=1))
        with pytest.raises(RuntimeError, match="is closed"):
            writer.finish()
    assert len(CorpusMemory.from_pretrained(tmp_path)) == 1


@pytest.mark.parametrize("call", range(4))
def test_a_full_disk_closes_the_writer_and_leaves_nothing(tmp_path, monkeypatch, call):
    calls, plain = [], shards_clara.sync

    def fail(path):
        calls.append(path)
        if len(calls) > call:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(path)

    monkeypatch.setattr(shards_clara, "sync", fail)
    writer = CorpusMemoryWriter(tmp_path, rows_per_shard=2)
    with pytest.raises(OSError, match="No space left"):
        add(writer, make_memory(5))
        writer.finish()
    with pytest.raises(RuntimeError, match="closed"):
        add(writer, make_memory(1, first=9))
    assert files(tmp_path) == []
    CorpusMemoryWriter(tmp_path).abort()


@pytest.mark.parametrize("rows", [0, -3])
def test_refuses_empty_shards(tmp_path, rows):
    with pytest.raises(ValueError, match="`rows_per_shard`"):
        CorpusMemoryWriter(tmp_path / "store", rows_per_shard=rows)


def test_refuses_a_bad_identity_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="`base`"):
        CorpusMemoryWriter(tmp_path / "store", base={"name": {1}})
    assert not (tmp_path / "store").exists()


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery(BUILD)
    yield nursery
    nursery.close()


def check_killed_build(nursery, folder, seconds):
    """Kills a build of 8000 passages; what is left loads whole or not at all, and never stands in the way."""
    folder.mkdir()
    killed = nursery.kill_after(folder, seconds)
    if (folder / MANIFEST).exists():
        memory = CorpusMemory.from_pretrained(folder, verify=True)
        assert len(memory) == 8000 and memory.texts[7999] == "79-99" and memory[7999][0, 0] == 79.0
        return False
    assert killed
    half = len(files(folder)) > 0
    with pytest.raises(FileNotFoundError, match="unfinished" if half else "corpus_memory.json"):
        CorpusMemory.from_pretrained(folder)
    with CorpusMemoryWriter(folder) as writer:
        add(writer, make_memory(2))
        assert len(writer.finish()) == 2
    assert len(files(folder)) == 3
    return half


def test_kill_during_build(nursery, tmp_path):
    halves = [check_killed_build(nursery, tmp_path / str(trial), 0.01 + 0.02 * trial) for trial in range(5)]
    assert any(halves)


@pytest.mark.slow
def test_kill_during_build_at_many_moments(nursery, tmp_path):
    halves = [check_killed_build(nursery, tmp_path / str(trial), 0.01 * trial) for trial in range(60)]
    assert sum(halves) >= 5
