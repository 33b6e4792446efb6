import pickle

import pytest
import torch
from clara.memory_clara import CorpusMemory
from clara.passages_clara import check_passages
from clara.recompute_clara import Recompressor
from store_helpers import edit_manifest, make_memory, read_json, same
from torch import tensor


class Counting:
    """Compresses a text to its number, and counts what it compresses."""

    def __init__(self):
        self.seen = []

    def __call__(self, texts):
        self.seen.extend(texts)
        return torch.stack([torch.arange(8.0).view(2, 4) + int(text.split()[-1]) ** 2 for text in texts])


@pytest.fixture
def compress():
    return Counting()


@pytest.fixture
def memory(compress):
    texts = [f"text {row}" for row in range(7)]
    columns = check_passages(7, texts, [f"d{row}" for row in range(7)])
    return CorpusMemory.of_texts((2, 4), columns, "f", {"name": "tiny", "revision": None}, compress)


def test_rows_are_compressed_when_asked_for_and_once(memory, compress):
    assert len(memory) == 7 and memory.stored_dtype == "recompute" and compress.seen == []
    found = memory.gather(tensor([[3, 1], [3, 6]]))
    assert compress.seen == ["text 3", "text 1", "text 6"]
    assert found[:, :, 0, 0].tolist() == [[9.0, 1.0], [9.0, 36.0]]
    assert torch.equal(memory.gather(tensor([6, 3])), found[1].flip(0)) and len(compress.seen) == 3
    assert memory[1:3][:, 0, 0].tolist() == [1.0, 4.0] and len(compress.seen) == 5


def test_the_cache_keeps_the_latest(compress):
    source = Recompressor(compress, size=2)
    for text in ("text 1", "text 2", "text 1", "text 3", "text 1", "text 2"):
        source.cached([text], (2, 4))
    assert compress.seen == ["text 1", "text 2", "text 3", "text 2"]
    assert source.cached([f"text {row}" for row in range(5)], (2, 4)).shape == (5, 2, 4)
    assert len(source._cache) == 2


def test_a_store_of_texts_alone(memory, compress, tmp_path):
    memory.save_pretrained(tmp_path)
    assert compress.seen == [] and not list(tmp_path.glob("memory-*"))
    (shard,) = read_json(tmp_path)["shards"]
    assert shard["memory"] is None and read_json(tmp_path)["dtype"] == "recompute"
    loaded = CorpusMemory.from_pretrained(tmp_path)
    assert loaded.texts == memory.texts
    with pytest.raises(ValueError, match="has no model to compress them: open it with `model.load_memory"):
        loaded.gather(tensor([0]))
    loaded.attach(compress)
    assert same(loaded, memory)
    loaded.delete(["d1", "d2"])
    loaded.append(CorpusMemory.of_texts((2, 4), check_passages(1, ["text 9"], ["d9"]), "f", None, compress))
    loaded.save_pretrained(tmp_path)
    again = CorpusMemory.from_pretrained(tmp_path)
    again.attach(compress)
    assert again[:][:, 0, 0].tolist() == [0.0, 9.0, 16.0, 25.0, 36.0, 81.0]
    again.compact()
    assert again.document_ids == ["d0", "d3", "d4", "d5", "d6", "d9"] and same(again, loaded)
    with pytest.raises(ValueError, match="has no model"):
        pickle.loads(pickle.dumps(again))[0:1]


def test_search_needs_an_index_or_a_word(memory):
    query = torch.ones(1, 2, 4)
    with pytest.raises(ValueError, match="has no index: make one with `build_index`, or search"):
        memory.search(query, 2)
    plain = CorpusMemory(memory[:], list(memory.texts))
    for found, expected in zip(memory.search(query, 3, exact=True), plain.search(query, 3), strict=True):
        assert torch.equal(found, expected)


def test_an_index_finds_what_is_then_compressed(memory, compress, tmp_path):
    pytest.importorskip("faiss")
    memory.save_pretrained(tmp_path)
    memory.build_index(kind="flat")
    query = memory[3:4]
    loaded = CorpusMemory.from_pretrained(tmp_path)
    loaded.attach(compress)
    scores, indices = loaded.search(query, 1)
    assert indices.tolist() == [[3]] and scores.item() == pytest.approx(1.0)


def test_formats_mix_where_they_can(memory):
    plain = make_memory(1, first=20)
    with pytest.raises(ValueError, match="texts alone"):
        memory.append(plain)
    plain.append(memory)
    assert torch.equal(plain[1:], memory[:])
    with pytest.raises(ValueError, match="use `of_texts`"):
        CorpusMemory(torch.ones(1, 2, 4), ["a"], dtype="recompute")


def test_a_model_of_another_shape_is_refused(memory):
    memory.attach(lambda texts: torch.ones(len(texts), 3, 4))
    with pytest.raises(ValueError, match=r"\(3, 4\), not \(2, 4\)"):
        memory.gather(tensor([0]))


def test_a_manifest_that_disagrees_is_refused(memory, tmp_path):
    memory.save_pretrained(tmp_path / "a")
    edit_manifest(tmp_path / "a", dtype="int8")
    make_memory(2).save_pretrained(tmp_path / "b")
    edit_manifest(tmp_path / "b", dtype="recompute")
    for name in "ab":
        with pytest.raises(ValueError, match="must be null where `dtype` is recompute, and only there"):
            CorpusMemory.from_pretrained(tmp_path / name)
