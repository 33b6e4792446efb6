import pytest
import torch
from clara.memory_clara import is_corpus_memory
from clara.store import CorpusStore
from clara.store.milvus import MilvusMemory, to_expression
from memory_helpers import WIDTH, make_memory

pytest.importorskip("pymilvus")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("milvus")
    store = CorpusStore.open(folder / "s")
    store.append(make_memory(30))
    store.delete(["d3"])
    return store, MilvusMemory.build(store, str(folder / "v.db"))


def test_it_finds_what_the_store_finds(both):
    store, memory = both
    query = make_memory(30).vectors[:4] + 0.1
    assert is_corpus_memory(memory) and len(memory) == 29
    for where in (
        None,
        {"number": {">": 9}},
        {"author.name": "a1", "number": [5, 7, 8]},
        {"id": ["d7", "d9"]},
    ):
        scores, indices = memory.search(query, 3, where=where)
        expected = store.search(query, 3, where=where)
        assert indices.tolist() == expected[1].tolist()
        torch.testing.assert_close(scores, expected[0], atol=1e-3, rtol=0)
    assert (
        memory.search(query, 3, where="number > 20")[1].tolist()
        == store.search(query, 3, where="number > 20")[1].tolist()
    )
    assert memory.search(query[:1], 1, ["text 7"], hybrid=1.0)[1].tolist() == [[6]]
    assert torch.equal(memory.gather([5])[0], store.gather([5])[0]) and memory[2]["id"] == "d2"


def test_another_version_is_refused(tmp_path):
    store = CorpusStore.open(tmp_path / "s")
    store.append(make_memory(3))
    memory = MilvusMemory.build(store, str(tmp_path / "v.db"))
    with pytest.raises(ValueError, match="between 1 and the 3"):
        memory.search(torch.ones(1, WIDTH), 4)
    memory._client.close()
    store.append(make_memory(1, first=8))
    with pytest.raises(ValueError, match="holds no vectors of version"):
        MilvusMemory(store, str(tmp_path / "v.db"))


def test_filters_in_the_language_of_milvus():
    where = {"id": "a", "x.y": {"<": 2, ">=": 1}, "n": ["p", True]}
    parts = [
        '(document_id == "a")',
        'metadata["x"]["y"] >= 1',
        'metadata["x"]["y"] < 2',
        '(metadata["n"] == "p" or metadata["n"] == true)',
    ]
    assert to_expression(where) == " and ".join(parts)


def test_ids_are_texts_there_too():
    assert to_expression({"document_id": 100}) == '(document_id == "100")'
    assert to_expression({"parent": {">": 5}}) == 'parent > "5"'
