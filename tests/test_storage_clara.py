import json
import shutil

import pytest
from clara import storage_clara
from clara.manifest_clara import MANIFEST
from clara.memory_clara import CorpusMemory
from clara.storage_clara import rows_in
from store_helpers import (
    edit_manifest,
    flip,
    make_memory,
    read_json,
    replace_shard_file,
    same,
)


@pytest.fixture
def store(tmp_path):
    """A stored memory of seven passages in three shards."""
    make_memory(7).save_pretrained(tmp_path / "store", max_shard_size=3 * 32)
    return tmp_path / "store"


def shard_path(folder, kind, number=0):
    return folder / read_json(folder)["shards"][number][kind]["file"]


def test_a_folder_without_a_manifest(store, tmp_path):
    (store / MANIFEST).unlink()
    with pytest.raises(FileNotFoundError, match="unfinished.*build it again into the same folder"):
        CorpusMemory.from_pretrained(store)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="not a stored corpus memory; make one with"):
        CorpusMemory.from_pretrained(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="neither a folder nor"):
        CorpusMemory.from_pretrained(tmp_path / "nowhere")


def test_a_damaged_manifest(store):
    (store / MANIFEST).write_text((store / MANIFEST).read_text()[:-20])
    with pytest.raises(ValueError, match="is not JSON"):
        CorpusMemory.from_pretrained(store)
    with pytest.raises(ValueError, match="is not JSON"):
        make_memory(1).save_pretrained(store)
    assert len(list(store.glob("*-0000*"))) == 6


@pytest.mark.parametrize("kind", ["memory", "texts"])
@pytest.mark.parametrize("number", [0, 2])
def test_a_missing_shard(store, kind, number):
    path = shard_path(store, kind, number)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path.name} is missing"):
        CorpusMemory.from_pretrained(store, verify=False)


@pytest.mark.parametrize("kind", ["memory", "texts"])
@pytest.mark.parametrize("verify", [None, True, False])
def test_a_shard_cut_short_or_grown(store, kind, verify):
    path = shard_path(store, kind, 1)
    content = path.read_bytes()
    for changed in (content[:-1], content[:100], b"", content + b"\0"):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=f"{path.name} has {len(changed)} bytes but the manifest says"):
            CorpusMemory.from_pretrained(store, verify=verify)


@pytest.mark.parametrize("kind", ["memory", "texts"])
@pytest.mark.parametrize("offset", [0, 8, 300, -1])
def test_an_altered_shard(store, kind, offset):
    path = shard_path(store, kind, 1)
    flip(path, offset)
    for verify in (None, True):
        with pytest.raises(ValueError, match=f"{path.name} was altered"):
            CorpusMemory.from_pretrained(store, verify=verify)


def test_checksums_are_left_out_of_large_stores_and_on_request(store, monkeypatch):
    flip(shard_path(store, "memory"), -1)
    with pytest.raises(ValueError, match="altered"):
        CorpusMemory.from_pretrained(store)
    assert len(CorpusMemory.from_pretrained(store, verify=False)) == 7
    monkeypatch.setattr(storage_clara, "FULL_CHECK_BYTES", 1000)
    assert len(CorpusMemory.from_pretrained(store)) == 7
    with pytest.raises(ValueError, match="altered"):
        CorpusMemory.from_pretrained(store, verify=True)


@pytest.mark.parametrize("fields", [{"dtype": "float16"}, {"hidden_size": 8}, {"num_memory_tokens": 10**30}])
def test_a_manifest_that_disagrees_with_the_headers(store, fields):
    edit_manifest(store, **fields)
    with pytest.raises(ValueError, match="must hold `memory`"):
        CorpusMemory.from_pretrained(store, verify=False)


def test_another_number_of_rows(store):
    edit_manifest(store, 0, rows=4, live_rows=4)
    edit_manifest(store, num_passages=8)
    with pytest.raises(ValueError, match="has 3 passages but the manifest says 4"):
        CorpusMemory.from_pretrained(store)


def test_passages_of_another_shard(store):
    replace_shard_file(store, "texts", shard_path(store, "texts", 2).read_bytes())
    with pytest.raises(ValueError, match="has 1 passages but the manifest says 3"):
        CorpusMemory.from_pretrained(store)


def test_a_memory_file_that_is_none(store):
    replace_shard_file(store, "memory", b"not safetensors" * 10)
    with pytest.raises(ValueError, match="not a safetensors file"):
        CorpusMemory.from_pretrained(store)


@pytest.mark.parametrize("kind", ["memory", "texts"])
def test_a_link_out_of_the_folder(store, tmp_path, kind):
    path = shard_path(store, kind)
    shutil.move(path, tmp_path / path.name)
    path.symlink_to(tmp_path / path.name)
    with pytest.raises(ValueError, match="leads outside its folder"):
        CorpusMemory.from_pretrained(store)


def test_a_manifest_that_is_a_link_out_of_the_folder(store, tmp_path):
    shutil.move(store / MANIFEST, tmp_path / MANIFEST)
    (store / MANIFEST).symlink_to(tmp_path / MANIFEST)
    with pytest.raises(ValueError, match="leads outside its folder"):
        CorpusMemory.from_pretrained(store)


def test_blobs_beside_a_folder_that_is_no_snapshot(tmp_path):
    make_memory(3).save_pretrained(tmp_path / "plain" / "store")
    path = shard_path(tmp_path / "plain" / "store", "memory")
    (tmp_path / "blobs").mkdir()
    shutil.move(path, tmp_path / "blobs" / "0")
    path.symlink_to(tmp_path / "blobs" / "0")
    with pytest.raises(ValueError, match="leads outside its folder"):
        CorpusMemory.from_pretrained(tmp_path / "plain" / "store")


def test_a_link_to_the_folder_itself_loads(store, tmp_path):
    (tmp_path / "link").symlink_to(store)
    memory = CorpusMemory.from_pretrained(tmp_path / "link")
    memory.append(make_memory(1, first=7))
    memory.save_pretrained(store)
    assert len(read_json(store)["shards"]) == 4


def hub_cache(store, root):
    """The store as the Hub's cache lays it out: a snapshot of links into blobs."""
    snapshot, blobs = root / "snapshots" / "abc", root / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(store.glob("[cmp]*"))):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def test_a_snapshot_of_the_hub_cache_loads(store, tmp_path):
    snapshot = hub_cache(store, tmp_path / "hub" / "datasets--a--b")
    assert same(CorpusMemory.from_pretrained(snapshot), make_memory(7))


def test_a_link_out_of_the_hub_cache(store, tmp_path):
    snapshot = hub_cache(store, tmp_path / "hub" / "datasets--a--b")
    path = shard_path(snapshot, "memory")
    path.unlink()
    path.symlink_to(shard_path(store, "memory"))
    with pytest.raises(ValueError, match="leads outside"):
        CorpusMemory.from_pretrained(snapshot)


def test_saving_to_a_file_is_refused(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(NotADirectoryError, match="is a file"):
        make_memory(1).save_pretrained(tmp_path / "a")


@pytest.mark.parametrize(
    ("size", "rows"),
    [("1GB", 10_000_000), ("250 MB", 2_500_000), ("5kb", 50), ("99B", 1), (1, 1), (1000, 10)],
)
def test_rows_in_a_shard(size, rows):
    assert rows_in(size, 100) == rows


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "", "GB", "1 GiB", "-1GB", "0MB", None])
def test_refuses_bad_shard_sizes(size):
    with pytest.raises(ValueError, match="`max_shard_size`"):
        rows_in(size, 100)


def test_the_manifest_is_plain_json(store):
    manifest = json.loads((store / MANIFEST).read_text())
    assert manifest["format"] == "clara_corpus_memory" and manifest["format_version"] == 2
    assert manifest["base"] == {"name": "tiny", "revision": None} and manifest["fingerprint"] == "f"
    assert (manifest["num_memory_tokens"], manifest["hidden_size"], manifest["dtype"]) == (2, 4, "float32")
    assert manifest["num_passages"] == 7
