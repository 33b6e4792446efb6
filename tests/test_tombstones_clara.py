import numpy as np
import pytest
import torch
from clara.memory_clara import CorpusMemory
from clara.shards_clara import FileEntry, ShardEntry, file_sha256
from clara.tombstones_clara import bury, read_tombstones, write_tombstones
from safetensors.torch import load_file, save
from store_helpers import edit_manifest, flip, make_memory, read_json, replace_shard_file

FILE = FileEntry("memory-00000-aa.safetensors", 10, "a" * 64)


def entry(rows, live_rows):
    return ShardEntry(FILE, FILE, FILE if live_rows < rows else None, rows, live_rows)


def test_round_trip(tmp_path):
    file = write_tombstones(tmp_path, 3, np.array([1, 4]))
    path = tmp_path / file.file
    assert file.file == f"deleted-00003-{file.sha256[:8]}.safetensors" and [path] == list(tmp_path.iterdir())
    assert (path.stat().st_size, file_sha256(path)) == (file.bytes, file.sha256)
    assert load_file(path)["deleted"].tolist() == [1, 4]
    assert read_tombstones(path, entry(6, 4)).tolist() == [0, 2, 3, 5]


def test_bury_writes_only_what_changed(tmp_path):
    entries = [entry(3, 3), entry(2, 1), entry(4, 4)]
    first = bury(tmp_path, entries, np.array([4, 6, 8]))
    assert [found.live_rows for found in first] == [3, 1, 2] and first[:2] == entries[:2]
    assert [path.name[:13] for path in tmp_path.iterdir()] == ["deleted-00002"]
    assert read_tombstones(tmp_path / first[2].deleted.file, first[2]).tolist() == [0, 2]
    assert bury(tmp_path, first, np.array([4, 6, 8])) == first


@pytest.fixture
def store(tmp_path):
    """Seven passages in three shards, of which d1 in shard 0 is deleted."""
    memory = make_memory(7)
    memory.save_pretrained(tmp_path, max_shard_size=3 * 32)
    memory.delete(["d1"])
    memory.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "rows",
    [[3], [-1], [], [0, 1], [1.0], [[1]]],
)
def test_refuses_other_rows(store, rows):
    replace_shard_file(store, "deleted", save({"deleted": torch.tensor(rows)}))
    with pytest.raises(ValueError, match="must list 1 different rows from 0 to 2, ascending"):
        CorpusMemory.from_pretrained(store, verify=False)


@pytest.mark.parametrize("rows", [[1, 1], [2, 1]])
def test_refuses_rows_out_of_order(store, rows):
    edit_manifest(store, 0, live_rows=1)
    edit_manifest(store, num_passages=5)
    replace_shard_file(store, "deleted", save({"deleted": torch.tensor(rows)}))
    with pytest.raises(ValueError, match="must list 2 different rows"):
        CorpusMemory.from_pretrained(store)


@pytest.mark.parametrize("content", [b"x" * 50, save({"other": torch.tensor([1])})])
def test_refuses_what_is_no_list(store, content):
    replace_shard_file(store, "deleted", content)
    with pytest.raises(ValueError, match="is not a list of deleted rows"):
        CorpusMemory.from_pretrained(store)


@pytest.mark.parametrize("verify", [None, True, False])
def test_refuses_an_altered_or_missing_file(store, verify):
    path = store / read_json(store)["shards"][0]["deleted"]["file"]
    flip(path, -1)
    with pytest.raises(ValueError, match="was altered"):
        CorpusMemory.from_pretrained(store, verify=verify)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="bytes but the manifest says"):
        CorpusMemory.from_pretrained(store, verify=verify)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        CorpusMemory.from_pretrained(store, verify=verify)


def test_a_manifest_that_counts_otherwise(store):
    edit_manifest(store, num_passages=7)
    with pytest.raises(ValueError, match="says `num_passages` 7 but its shards hold 6"):
        CorpusMemory.from_pretrained(store)
