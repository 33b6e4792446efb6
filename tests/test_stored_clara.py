"""Saving a memory again: appended, deleted, unchanged, replaced, changed by another."""

import pytest
import torch
from clara import storage_clara
from clara.formats_clara import FORMATS, pack, unpack
from clara.manifest_clara import MANIFEST
from clara.memory_clara import CorpusMemory, CorpusMemoryWriter
from store_helpers import make_memory, read_json, same


def test_append_after_loading_writes_only_new_shards(tmp_path):
    make_memory(3).save_pretrained(tmp_path)
    old = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*-0000*")}
    memory = CorpusMemory.from_pretrained(tmp_path)
    memory.append(make_memory(2, first=3))
    memory.save_pretrained(tmp_path)
    memory.append(make_memory(1, first=5))
    memory.save_pretrained(tmp_path)
    now = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*-0000*")}
    assert old.items() <= now.items() and len(now) == 6
    loaded = CorpusMemory.from_pretrained(tmp_path)
    assert same(loaded, memory)
    assert [shard["rows"] for shard in read_json(tmp_path)["shards"]] == [3, 2, 1]


def test_append_after_saving_writes_only_new_shards(tmp_path):
    memory = make_memory(3)
    memory.save_pretrained(tmp_path)
    memory.append(make_memory(2, first=3))
    memory.save_pretrained(tmp_path)
    assert [shard["rows"] for shard in read_json(tmp_path)["shards"]] == [3, 2]
    assert same(CorpusMemory.from_pretrained(tmp_path), memory)


def test_saving_again_unchanged_writes_nothing(tmp_path):
    memory = make_memory(3)
    memory.save_pretrained(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*-0000*")}
    memory.save_pretrained(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*-0000*")} == before


def test_a_reader_keeps_what_it_opened_during_an_append(tmp_path):
    make_memory(3).save_pretrained(tmp_path)
    reader = CorpusMemory.from_pretrained(tmp_path)
    writer = CorpusMemory.from_pretrained(tmp_path)
    writer.append(make_memory(2, first=3))
    writer.save_pretrained(tmp_path)
    assert same(reader, make_memory(3))


def test_the_second_of_two_appends_is_told(tmp_path):
    make_memory(3).save_pretrained(tmp_path)
    one, two = CorpusMemory.from_pretrained(tmp_path), CorpusMemory.from_pretrained(tmp_path)
    one.append(make_memory(1, first=3))
    two.append(make_memory(1, first=4))
    one.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="changed by another writer.*load it again"):
        two.save_pretrained(tmp_path)
    assert CorpusMemory.from_pretrained(tmp_path).document_ids == ["d0", "d1", "d2", "d3"]
    two.save_pretrained(tmp_path / "elsewhere")
    assert same(CorpusMemory.from_pretrained(tmp_path / "elsewhere"), two)


def test_saving_replaces_another_store_and_leaves_none_of_its_files(tmp_path):
    make_memory(6).save_pretrained(tmp_path, max_shard_size=64)
    (tmp_path / "notes.txt").write_text("mine")
    memory = make_memory(2, first=10)
    memory.save_pretrained(tmp_path)
    assert same(CorpusMemory.from_pretrained(tmp_path), memory)
    names = sorted(path.name.split("-")[0] for path in tmp_path.iterdir() if path.name[0] != ".")
    assert names == ["corpus_memory.json", "memory", "notes.txt", "passages"]


def test_a_loaded_memory_replaces_the_store_of_another_folder(tmp_path):
    make_memory(3).save_pretrained(tmp_path / "a")
    make_memory(5, first=10).save_pretrained(tmp_path / "b")
    CorpusMemory.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert same(CorpusMemory.from_pretrained(tmp_path / "b"), make_memory(3))


def test_a_loaded_memory_saves_to_another_folder(tmp_path):
    memory = make_memory(7)
    memory.save_pretrained(tmp_path / "a", max_shard_size=64)
    loaded = CorpusMemory.from_pretrained(tmp_path / "a")
    loaded.save_pretrained(tmp_path / "b")
    assert same(CorpusMemory.from_pretrained(tmp_path / "b"), memory)
    assert len(read_json(tmp_path / "b")["shards"]) == 1


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name[0] != "."}


def deleted_files(folder):
    return sorted(path.name for path in folder.glob("deleted-*"))


def test_deleting_writes_tombstones_and_no_shard(tmp_path):
    make_memory(7).save_pretrained(tmp_path, max_shard_size=3 * 32)
    before = files(tmp_path)
    memory = CorpusMemory.from_pretrained(tmp_path)
    memory.delete(["d1", "d6"])
    memory.save_pretrained(tmp_path)
    after = files(tmp_path)
    assert {name: time for name, time in after.items() if name in before and name != MANIFEST} == {
        name: time for name, time in before.items() if name != MANIFEST
    }
    assert [name[:13] for name in deleted_files(tmp_path)] == ["deleted-00000", "deleted-00002"]
    assert [(shard["rows"], shard["live_rows"]) for shard in read_json(tmp_path)["shards"]] == [
        (3, 2),
        (3, 3),
        (1, 0),
    ]
    assert read_json(tmp_path)["num_passages"] == 5
    loaded = CorpusMemory.from_pretrained(tmp_path)
    assert same(loaded, memory) and loaded.document_ids == ["d0", "d2", "d3", "d4", "d5"]
    loaded.delete(["d0"])
    loaded.append(make_memory(2, first=0))
    loaded.delete(["d1"])
    loaded.save_pretrained(tmp_path)
    assert len(deleted_files(tmp_path)) == 2
    assert [shard["rows"] for shard in read_json(tmp_path)["shards"]] == [3, 3, 1, 1]
    again = CorpusMemory.from_pretrained(tmp_path)
    assert same(again, loaded) and again.document_ids == ["d2", "d3", "d4", "d5", "d0"]
    again.save_pretrained(tmp_path)
    assert same(CorpusMemory.from_pretrained(tmp_path), loaded)


def test_deleting_from_what_was_saved_from_ram(tmp_path):
    memory = make_memory(7)
    memory.delete(["d2"])
    memory.save_pretrained(tmp_path, max_shard_size=2 * 32)
    assert [shard["live_rows"] for shard in read_json(tmp_path)["shards"]] == [2, 2, 2]
    memory.delete(["d3", "d6"])
    memory.save_pretrained(tmp_path)
    assert [shard["live_rows"] for shard in read_json(tmp_path)["shards"]] == [2, 1, 1]
    assert same(CorpusMemory.from_pretrained(tmp_path), memory)
    assert memory.document_ids == ["d0", "d1", "d4", "d5"]


def test_no_deleted_passage_goes_to_another_folder(tmp_path):
    make_memory(7).save_pretrained(tmp_path / "a", max_shard_size=3 * 32)
    memory = CorpusMemory.from_pretrained(tmp_path / "a")
    memory.delete(["d1", "d3", "d4", "d5"])
    memory.save_pretrained(tmp_path / "b")
    assert [shard["rows"] for shard in read_json(tmp_path / "b")["shards"]] == [3]
    assert same(CorpusMemory.from_pretrained(tmp_path / "b"), memory)
    memory.delete(["d2"])
    memory.save_pretrained(tmp_path / "b")
    assert CorpusMemory.from_pretrained(tmp_path / "b").document_ids == ["d0", "d6"]
    assert same(CorpusMemory.from_pretrained(tmp_path / "a"), make_memory(7))


@pytest.mark.parametrize("dtype", FORMATS)
def test_every_format_is_stored_appended_to_and_deleted_from(tmp_path, dtype):
    memory = CorpusMemory(make_memory(5)[:], list("abcde"), list("abcde"), fingerprint="f", dtype=dtype)
    assert memory.stored_dtype == dtype and dtype in repr(memory)
    memory.save_pretrained(tmp_path, max_shard_size=100)
    assert read_json(tmp_path)["dtype"] == dtype
    loaded = CorpusMemory.from_pretrained(tmp_path)
    assert same(loaded, memory) and loaded.stored_dtype == dtype
    for other in FORMATS:
        name = f"new {other}"
        added = CorpusMemory(torch.randn(1, 2, 4), [name], [name], fingerprint="f", dtype=other)
        loaded.append(added)
        expected = unpack(pack(added[:], dtype), dtype)
        torch.testing.assert_close(loaded[-1], expected[0], rtol=1e-6, atol=0)
        assert loaded.stored_dtype == dtype and loaded.dtype == memory.dtype
    loaded.delete(["b", "new int8"])
    loaded.save_pretrained(tmp_path)
    again = CorpusMemory.from_pretrained(tmp_path)
    assert same(again, loaded) and len(again) == 5 + len(FORMATS) - 2
    again.compact()
    assert same(CorpusMemory.from_pretrained(tmp_path), loaded) and same(again, loaded)


def test_a_format_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="`dtype` must be one of"):
        CorpusMemory(torch.ones(1, 1, 2), ["a"], dtype="int2")
    with pytest.raises(ValueError, match="width 3 is odd"):
        CorpusMemory(torch.ones(1, 1, 3), ["a"], dtype="int4")


def test_compact_leaves_no_byte_of_a_deleted_passage(tmp_path):
    memory = make_memory(7)
    memory.save_pretrained(tmp_path, max_shard_size=2 * 32)
    memory.delete(["d1", "d5"])
    memory.append(make_memory(2, first=10))
    memory.delete(["d11"])
    memory.save_pretrained(tmp_path)
    reader = CorpusMemory.from_pretrained(tmp_path)
    memory.compact()
    assert [path.name.split("-")[0] for path in sorted(tmp_path.glob("*-*"))] == ["memory", "passages"]
    assert [(shard["rows"], shard["live_rows"]) for shard in read_json(tmp_path)["shards"]] == [(6, 6)]
    for loaded in (CorpusMemory.from_pretrained(tmp_path, verify=True), reader, memory):
        assert loaded.document_ids == ["d0", "d2", "d3", "d4", "d6", "d10"]
        assert loaded.texts[5] == "text 10" and same(loaded, memory)
    assert torch.equal(memory.rows_of(torch.arange(6)), torch.arange(6))
    memory.delete(["d0"])
    memory.save_pretrained(tmp_path)
    assert len(CorpusMemory.from_pretrained(tmp_path)) == 5
    with pytest.raises(RuntimeError, match="changed by another writer"):
        reader.compact()


def test_compact_needs_a_folder(tmp_path):
    with pytest.raises(ValueError, match="save it with `save_pretrained` first"):
        make_memory(2).compact()


def test_opening_while_a_writer_replaces_the_store(tmp_path, monkeypatch):
    make_memory(5).save_pretrained(tmp_path)
    writer, plain, calls = CorpusMemory.from_pretrained(tmp_path), storage_clara.open_shards, []

    def open_late(folder, manifest, verify):
        if not calls:
            calls.append(1)
            writer.delete(["d0"])
            writer._save(tmp_path, anew=True)
        return plain(folder, manifest, verify)

    monkeypatch.setattr(storage_clara, "open_shards", open_late)
    assert CorpusMemory.from_pretrained(tmp_path).document_ids == ["d1", "d2", "d3", "d4"]


def test_the_second_of_two_deletes_is_told(tmp_path):
    make_memory(3).save_pretrained(tmp_path)
    one, two = CorpusMemory.from_pretrained(tmp_path), CorpusMemory.from_pretrained(tmp_path)
    one.delete(["d0"])
    two.delete(["d1"])
    one.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="changed by another writer.*load it again"):
        two.save_pretrained(tmp_path)
    assert CorpusMemory.from_pretrained(tmp_path).document_ids == ["d1", "d2"]


def test_writer_opens_what_it_wrote(tmp_path):
    with CorpusMemoryWriter(tmp_path, fingerprint="f", base={"name": "tiny", "revision": None}) as writer:
        for part in (make_memory(3), make_memory(2, first=3)):
            writer.add(part[:], part.texts, part.document_ids, part.metadata)
        memory = writer.finish()
    expected = make_memory(3)
    expected.append(make_memory(2, first=3))
    assert same(memory, expected)
    memory.append(make_memory(1, first=5))
    memory.save_pretrained(tmp_path)
    assert len(CorpusMemory.from_pretrained(tmp_path)) == 6
