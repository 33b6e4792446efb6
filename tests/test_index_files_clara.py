"""Files of an index: pinned to their store, kept when it grows, refused if another's or damaged."""

import json

import pytest
import torch
from clara.index_files_clara import INDEX
from clara.memory_clara import CorpusMemory
from store_helpers import make_memory

pytest.importorskip("faiss")
QUERY = torch.ones(2, 2, 4)


@pytest.fixture
def folder(tmp_path):
    memory = make_memory(40)
    memory.build_index("flat")
    memory.save_pretrained(tmp_path / "store")
    return tmp_path / "store"


def edit(folder, **fields):
    entry = json.loads((folder / INDEX).read_text())
    entry.update(fields)
    (folder / INDEX).write_text(json.dumps(entry))


def search(folder):
    return CorpusMemory.from_pretrained(folder).search(QUERY, 5, exact=False)


def test_is_saved_and_opened_with_its_recall(folder):
    memory = CorpusMemory.from_pretrained(folder)
    assert memory.index.kind == "flat" and len(memory.index) == 40
    assert memory.index.recall["at"] == 5 and 0.9 <= memory.index.recall["mean"] <= 1
    assert torch.equal(search(folder)[1], memory.search(QUERY, 5, exact=True)[1])


def test_is_built_into_the_folder_of_a_loaded_memory(tmp_path):
    make_memory(40).save_pretrained(tmp_path)
    memory = CorpusMemory.from_pretrained(tmp_path)
    memory.build_index("ivf_sq8")
    memory.build_index("flat")
    names = sorted(path.name.partition("-")[0] for path in tmp_path.iterdir() if "-" in path.name)
    assert names == ["index", "memory", "passages", "sketch"]  # the first index's files are gone
    assert CorpusMemory.from_pretrained(tmp_path).index.kind == "flat"


def test_grows_with_the_store(folder):
    memory = CorpusMemory.from_pretrained(folder)
    memory.append(make_memory(7, first=40))
    memory.save_pretrained(folder)
    memory = CorpusMemory.from_pretrained(folder)
    assert len(memory.index) == 40 and len(memory) == 47
    query = make_memory(7, first=40)[:]
    assert memory.search(query, 1)[1].flatten().tolist() == list(range(40, 47))


def test_goes_along_to_another_folder(folder, tmp_path):
    CorpusMemory.from_pretrained(folder).save_pretrained(tmp_path / "copy", max_shard_size=500)
    assert search(tmp_path / "copy")[1].shape == (2, 5)


def test_of_another_store_is_refused(folder, tmp_path):
    make_memory(40, seed=5).save_pretrained(tmp_path / "other")
    for path in [folder / INDEX, *folder.glob("index-*"), *folder.glob("sketch-*")]:
        (tmp_path / "other" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="belongs to another store.*build it again with `build_index`"):
        search(tmp_path / "other")
    memory = CorpusMemory.from_pretrained(tmp_path / "other")
    assert memory.search(QUERY, 5, exact=True)[1].shape == (2, 5)
    memory.build_index("flat")
    assert search(tmp_path / "other")[1].shape == (2, 5)


def test_is_removed_when_another_memory_is_saved_there(folder):
    make_memory(40, seed=5).save_pretrained(folder)
    assert not (folder / INDEX).exists() and not list(folder.glob("*.faiss"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "hnsw"}, "`kind` cannot be 'hnsw'"),
        ({"rows": 0}, "`rows` cannot be 0"),
        ({"rows": 10**12}, "belongs to another store"),
        ({"rows": 39}, "holds \\(rows, dimensions\\)"),
        ({"rows": True}, "`rows` cannot be True"),
        ({"cells": -1}, "`cells` cannot be -1"),
        ({"index_file": "../index-00000000.faiss"}, "plain name"),
        ({"format_version": 2}, "`format_version` cannot be 2"),
        ({"more": 1}, "exactly"),
        ({"index_bytes": 1}, "cut short"),
    ],
)
def test_a_bad_entry_is_refused(folder, fields, message):
    edit(folder, **fields)
    with pytest.raises(ValueError, match=message):
        search(folder)


def test_not_json(folder):
    (folder / INDEX).write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        search(folder)


@pytest.mark.parametrize("stem", ["index", "sketch"])
def test_missing_short_and_altered_files(folder, stem):
    path = next(folder.glob(f"{stem}-*"))
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="cut short"):
        search(folder)
    path.write_bytes(bytes(len(content)))
    with pytest.raises(ValueError, match="not a readable|altered"):
        search(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="is missing: build it again"):
        search(folder)


def test_an_unusable_index_does_not_stop_saving(folder, tmp_path, caplog):
    edit(folder, rows=0)
    CorpusMemory.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert "index is left out" in caplog.text and not (tmp_path / "copy" / INDEX).exists()
