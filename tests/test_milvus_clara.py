"""A memory over milvus-lite answers as the local one does."""

import pytest
import torch
from clara.memory_clara import CorpusMemory, is_corpus_memory
from conftest import DOCUMENTS, QUESTIONS
from test_finding_clara import make_corpus, queries, recall
from test_remote_clara import upload

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")
from clara import milvus_clara  # noqa: E402
from clara.milvus_clara import MilvusMemory  # noqa: E402


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("milvus")
    memory = make_corpus(400)
    memory.save_pretrained(folder / "store")
    memory.delete(["d5", "d100"])
    memory.save_pretrained(folder / "store")
    return folder


@pytest.fixture(scope="module")
def memory(place):
    return MilvusMemory.build(place / "store", place / "a.db", dimensions=16, questions=queries(40))


def test_finds_what_the_exact_search_finds(memory, place):
    local, query = CorpusMemory.from_pretrained(place / "store"), queries()
    scores, indices = memory.search(query, 5)
    exact = local.search(query, 5)
    assert recall(indices, exact[1]) >= 0.97
    known = local.scores(query, indices)
    assert torch.equal(scores, known) and (scores.diff(dim=1) <= 0).all()
    assert memory.recall["at"] == 5 and memory.recall["mean"] >= 0.9
    assert torch.equal(memory.search(query, 5, exact=True)[1], exact[1])
    assert is_corpus_memory(memory) and len(memory) == 398
    assert list(memory.document_ids) == list(local.document_ids) and torch.equal(memory[3], local[3])


@pytest.mark.parametrize(
    "where",
    [
        {"year": 3},
        {"year": [3, 4], "language": "en"},
        {"year": {">=": 5, "<": 9}},
        {"document_id": ["d17", "d5"]},
        {"language": {"!=": "de"}},
        {"language": "de"},
    ],
)
def test_filters_are_those_of_the_local_memory(memory, place, where):
    local, query = CorpusMemory.from_pretrained(place / "store"), queries()
    scores, indices = memory.search(query, 4, where=where)
    expected = local.search(query, 4, where=where)
    assert indices.shape == expected[1].shape and recall(indices, expected[1]) >= 0.95
    assert memory.matches(where, indices.flatten().tolist()).all()


def test_true_is_not_one_and_nothing_passes(memory):
    assert memory.search(queries(), 3, where={"year": True})[1].shape == (12, 0)
    assert memory.search(queries(), 3, where={"year": 99})[1].shape == (12, 0)


def test_opens_again_and_from_object_storage(memory, place):
    memory._client.close()
    again = MilvusMemory(upload(place / "store"), place / "a.db")
    expected = CorpusMemory.from_pretrained(place / "store").search(queries(), 5)[1]
    assert recall(again.search(queries(), 5)[1], expected) >= 0.97
    assert again.recall == memory.recall
    again._client.close()


def test_the_model_answers_from_it(shared_model, tmp_path):
    documents = [{"text": text, "number": number} for number, text in enumerate(DOCUMENTS)]
    local = shared_model.build_memory(documents, show_progress=False)
    local.save_pretrained(tmp_path / "store")
    memory = MilvusMemory.build(tmp_path / "store", tmp_path / "b.db")
    options = {"retrieval_top_k": 2, "max_new_tokens": 4, "return_dict_in_generate": True}
    found = shared_model.generate(QUESTIONS, memory, **options)
    expected = shared_model.generate(QUESTIONS, local, **options)
    assert found.answers == expected.answers and found.document_ids == expected.document_ids
    one = shared_model.generate(
        QUESTIONS[0], memory, where={"number": 4}, **{**options, "retrieval_top_k": 1}
    )
    assert one.document_ids == ["4"]
    memory._client.close()


def test_refusals(place, tmp_path, monkeypatch):
    make_corpus(30, seed=9).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="holds no sketches of the store.*built for another store"):
        MilvusMemory(tmp_path / "other", tmp_path / "c.db")
    memory = MilvusMemory.build(tmp_path / "other", tmp_path / "c.db")
    with pytest.raises(TypeError, match="a callable cannot run inside Milvus"):
        memory.search(queries(), 2, where=lambda fields: True)
    for call in (memory.append, memory.delete):
        with pytest.raises(ValueError, match="read only"):
            call([])
    memory._client.close()

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(milvus_clara.importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match="clara\\[milvus\\]"):
        milvus_clara.connect("x.db")


def test_what_is_deleted_later_is_not_found(tmp_path):
    corpus = make_corpus(60)
    corpus.save_pretrained(tmp_path / "store")
    MilvusMemory.build(tmp_path / "store", tmp_path / "d.db", dimensions=16)._client.close()
    corpus.delete([f"d{row}" for row in range(50)])
    corpus.save_pretrained(tmp_path / "store")
    memory = MilvusMemory(tmp_path / "store", tmp_path / "d.db")
    assert [set(row) for row in memory.search(queries(3), 10)[1].tolist()] == [set(range(10))] * 3
    assert memory.search(queries(3), 10, where={"year": [1, 2, 15]})[1].tolist() == [[5]] * 3
    memory._client.close()
