"""Writers that are killed, meet a full disk or meet each other: the store stays whole."""

import errno
import os

import pytest
import torch
from clara import shards_clara, storage_clara
from clara.manifest_clara import MANIFEST
from clara.memory_clara import CorpusMemory
from clara.storage_clara import LOCK, locked
from store_helpers import (
    Nursery,
    make_memory,
    read_json,
    same,
    start_child,
)

CHANGE = """
def work(folder):
    memory = CorpusMemory.from_pretrained(folder)
    names = [f"new{i}" for i in range(8000)]
    memory.append(CorpusMemory(torch.full((8000, 2, 64), 7.0), names, names, fingerprint="f"))
    gone = [f"d{i}" for i in range(0, 400, 2)]
    open(folder + "/started", "w").close()
    {steps}
"""
APPEND = "memory.save_pretrained(folder, max_shard_size=200_000)"
DELETE = "memory.delete(gone); memory.save_pretrained(folder, max_shard_size=200_000)"
COMPACT = "memory.delete(gone); memory.compact(max_shard_size=200_000)"
KINDS = ("memory", "texts", "deleted")
HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def store(tmp_path):
    """A stored memory of seven passages in three shards."""
    make_memory(7).save_pretrained(tmp_path / "store", max_shard_size=3 * 32)
    return tmp_path / "store"


def test_a_second_writer_is_told(store):
    memory = CorpusMemory.from_pretrained(store)
    memory.append(make_memory(1, first=7))
    with locked(store), pytest.raises(RuntimeError, match="Another writer is at work in .*store"):
        memory.save_pretrained(store)
    memory.save_pretrained(store)
    assert len(CorpusMemory.from_pretrained(store)) == 8


def test_a_second_process_is_told_and_a_dead_one_holds_nobody_up(store):
    memory = CorpusMemory.from_pretrained(store)
    memory.append(make_memory(1, first=7))
    child = start_child(HOLD, store / LOCK)
    try:
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(RuntimeError, match="Another writer"):
            memory.save_pretrained(store)
        assert len(CorpusMemory.from_pretrained(store)) == 7
    finally:
        child.kill()
        child.communicate()
    memory.save_pretrained(store)
    assert len(CorpusMemory.from_pretrained(store)) == 8


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


@pytest.mark.parametrize("target", ["file_sha256", "sync"])
@pytest.mark.parametrize("call", range(6))
@pytest.mark.parametrize("change", ["save_pretrained", "compact"])
def test_a_full_disk_leaves_the_old_store(store, monkeypatch, target, call, change):
    before, calls = names(store), []
    plain = getattr(shards_clara, target)

    def fail(path):
        calls.append(path)
        if len(calls) > call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(path)

    memory = CorpusMemory.from_pretrained(store)
    memory.append(make_memory(9, first=7))
    memory.delete(["d0", "d8"])
    for module in (shards_clara, storage_clara):
        monkeypatch.setattr(module, target, fail)
    with pytest.raises(OSError, match="No space left"):
        memory.compact(96) if change == "compact" else memory.save_pretrained(store, max_shard_size=96)
    monkeypatch.undo()
    assert names(store) == before
    assert same(CorpusMemory.from_pretrained(store), make_memory(7))
    memory.save_pretrained(store)
    assert same(CorpusMemory.from_pretrained(store), memory)


def test_an_error_right_after_the_commit_keeps_the_new_store(store, monkeypatch):
    memory = CorpusMemory.from_pretrained(store)
    memory.append(make_memory(2, first=7))
    plain, seen = os.replace, []

    def replace(source, target):
        plain(source, target)
        if str(target).endswith(MANIFEST):
            seen.append(target)
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        memory.save_pretrained(store)
    assert seen and same(CorpusMemory.from_pretrained(store), memory)


def test_leftovers_are_removed_by_the_next_writer(store):
    memory = CorpusMemory.from_pretrained(store)
    for name in (
        "memory-00003.tmp",
        "passages-00003.tmp",
        "memory-00003-0123abcd.safetensors",
        f"{MANIFEST}.tmp",
    ):
        (store / name).write_bytes(b"half")
    for name in ("memory-mine.safetensors", "passages.parquet", "README.md"):
        (store / name).write_bytes(b"mine")
    assert len(CorpusMemory.from_pretrained(store)) == 7
    memory.append(make_memory(1, first=7))
    memory.save_pretrained(store)
    left = names(store)
    assert not [name for name in left if name.endswith(".tmp") or "0123abcd" in name]
    assert {"memory-mine.safetensors", "passages.parquet", "README.md"} <= set(left)


@pytest.fixture(scope="module", params=[APPEND, DELETE, COMPACT], ids=["append", "delete", "compact"])
def nursery(request):
    nursery = Nursery(CHANGE.replace("{steps}", request.param))
    nursery.deletes = request.param != APPEND
    yield nursery
    nursery.close()


def check_killed(nursery, folder, seconds):
    """Kills a change of a store of 400 passages in shards of 50; it is there whole or not at all."""
    old = make_memory(400, shape=(2, 64))
    old.save_pretrained(folder, max_shard_size=50 * 512)
    reader = CorpusMemory.from_pretrained(folder)
    killed = nursery.kill_after(folder, seconds, folder / "started")
    (folder / "started").unlink()
    memory = CorpusMemory.from_pretrained(folder, verify=True)
    kept = slice(1, None, 2) if nursery.deletes else slice(None)
    new = make_memory(400, shape=(2, 64))[:][kept]
    if killed and len(memory) == 400:
        assert same(memory, old)
    else:
        assert torch.equal(memory[: len(new)], new) and memory.texts[: len(new)] == old.texts[kept]
        assert (memory[len(new) :] == 7.0).all()
        assert memory.texts[len(new) :] == [f"new{i}" for i in range(8000)]
    assert same(reader, old)
    half = left_over(folder)
    memory.append(make_memory(1, first=400, shape=(2, 64)))
    memory.save_pretrained(folder)
    assert len(CorpusMemory.from_pretrained(folder)) == len(memory)
    assert left_over(folder) == 0
    return killed and half > 0


def left_over(folder):
    """How many files of the folder its manifest does not name."""
    named = sum(1 for shard in read_json(folder)["shards"] for kind in KINDS if shard[kind] is not None)
    return len(names(folder)) - 1 - named


def test_kill_during_a_change(nursery, tmp_path):
    for trial in range(4):
        check_killed(nursery, tmp_path / str(trial), 0.04 * trial)


@pytest.mark.slow
def test_kill_during_a_change_at_many_moments(nursery, tmp_path):
    halves = [check_killed(nursery, tmp_path / str(trial), 0.006 * trial) for trial in range(60)]
    assert sum(halves) >= 5
