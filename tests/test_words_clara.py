"""Words beside memories: BM25 and fused ranks by hand, filters, changes of the memory."""

import math
import sys

import pytest
import torch
from clara import words_clara
from clara.memory_clara import CorpusMemory
from clara.words_clara import WordIndex, check_hybrid, fuse_ranks, hybrid_search
from conftest import DOCUMENTS, QUESTIONS

pytest.importorskip("bm25s")

TEXTS = ["apple pie", "cherry cake with apple", "granite", "cherry cherry"]


def make(texts=TEXTS):
    """Memory i points into direction i: cosines with a query are its own components."""
    count = len(texts)
    metadata = [{"number": row} for row in range(count)]
    return CorpusMemory(torch.eye(count).view(count, 1, count), texts, metadata=metadata)


def asked(*values):
    """A question's memory (1, 1, N) with these cosines, up to its length."""
    return torch.tensor(values, dtype=torch.float32).view(1, 1, -1)


def test_bm25_by_hand():
    """Texts of 2 words and 1: idf = ln(1 + 1.5 / 1.5), frequency 1 / (1 + 1.5 · (0.25 + 0.75 · 2 / 1.5))"""
    index = WordIndex(["apple pie", "cherry"])
    first, other = index.scores(["the APPLE", "unknown"])
    assert len(index) == 2
    assert first.tolist() == pytest.approx([math.log(2) / (1 + 1.5 * 1.25), 0.0])
    assert other.tolist() == [0.0, 0.0]


def test_texts_of_stop_words_only():
    with pytest.raises(ValueError, match="no word but stop words"):
        WordIndex(["the", "and of"])


def test_without_bm25s(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ModuleNotFoundError, match="pip install bm25s"):
        make().search_words(["apple"], 1)


def test_only_passages_that_share_a_word_and_pass():
    memory = make()
    assert memory.search_words(["cherry", "apple", "basalt"], 4) == [[3, 1], [0, 1], []]
    assert memory.search_words(["cherry"], 1) == [[3]]
    assert memory.search_words(["cherry"], 4, {"number": {"<": 3}}) == [[1]]
    with pytest.raises(ValueError, match="`where`"):
        memory.search_words(["cherry"], 4, {})


def test_words_are_counted_once_and_again_after_a_change(monkeypatch):
    memory = make()
    memory.search_words(["cherry"], 4)
    with monkeypatch.context() as patch:
        patch.setattr(words_clara, "WordIndex", lambda _: pytest.fail("counted again"))
        memory.search_words(["cherry"], 4)
    memory.delete(["3"])
    assert memory.search_words(["cherry"], 4) == [[1]]
    memory.append(CorpusMemory(torch.ones(1, 1, 4), ["cherry stone"], ["new"]))
    assert memory.search_words(["cherry"], 4) == [[3, 1]]


def test_fused_ranks_by_hand():
    fused = fuse_ranks(((0.75, [5, 2, 9]), (0.25, [9, 5])))
    assert list(fused) == [5, 9, 2]
    assert list(fused.values()) == pytest.approx([0.75 / 61 + 0.25 / 62, 0.75 / 63 + 0.25 / 61, 0.75 / 62])
    assert list(fuse_ranks(((0.0, [7, 3]), (1.0, [1])))) == [1, 7, 3]  # the order of the first among equals


def test_a_hybrid_search_by_hand():
    """Ranks of the memories 2 0 1 3, of the words for "cherry" 3 1: 1/61, 1/62, 1/63 + 1/62, 1/64 + 1/61."""
    memory, query = make(), asked(0.5, 0.4, 0.7, 0.2)
    scores, indices = hybrid_search(memory, ["cherry"], query, 3, True)
    assert indices.tolist() == [[3, 1, 2]]
    length = math.sqrt(0.5**2 + 0.4**2 + 0.7**2 + 0.2**2)
    assert scores[0].tolist() == pytest.approx([0.2 / length, 0.4 / length, 0.7 / length])
    assert hybrid_search(memory, ["cherry"], query, 4, 0)[1].tolist() == [[2, 0, 1, 3]]
    assert hybrid_search(memory, ["cherry"], query, 4, 1)[1].tolist() == [[3, 1, 2, 0]]


def test_a_filter_holds_for_both():
    memory, query = make(), asked(0.5, 0.4, 0.7, 0.2)
    assert hybrid_search(memory, ["cherry"], query, 3, 0.5, {"number": [0, 1]})[1].tolist() == [[1, 0]]
    scores, indices = hybrid_search(memory, ["cherry"], query, 3, 0.5, {"number": 9})
    assert scores.shape == indices.shape == (1, 0)


@pytest.mark.parametrize("bad", [-0.1, 1.5, "half", float("nan")])
def test_refuses_a_weight(bad):
    with pytest.raises(ValueError, match="`hybrid` is the weight of the words, from 0 to 1"):
        check_hybrid(bad)


def test_refuses_a_k():
    with pytest.raises(ValueError, match="`retrieval_top_k` must be from 1 to the 4 passages"):
        hybrid_search(make(), ["cherry"], asked(1, 0, 0, 0), 5, True)


def test_a_model_answers_with_it(shared_model):
    """Words alone find the passage that repeats the question; without them nothing changes."""
    memory = shared_model.build_memory(DOCUMENTS, show_progress=False)
    hits = shared_model.retrieve(QUESTIONS, memory, 2, hybrid=1.0)
    assert [row[0] for row in hits.indices] == [0, 2, 1]
    query = shared_model._reason_texts(list(QUESTIONS))
    assert torch.equal(hits.scores, memory.scores(query, torch.tensor(hits.indices)))
    plain = shared_model.retrieve(QUESTIONS, memory, 2)
    assert shared_model.retrieve(QUESTIONS, memory, 2, hybrid=False).indices == plain.indices
    options = {"max_new_tokens": 2, "retrieval_top_k": 1, "return_dict_in_generate": True}
    assert shared_model.generate(QUESTIONS[1], memory, hybrid=1.0, **options).document_ids == ["2"]
    assert shared_model.generate(QUESTIONS[1], DOCUMENTS, hybrid=1.0, **options).document_ids == ["2"]
    with pytest.raises(ValueError, match="`memory` is missing"):
        shared_model.generate(hybrid=True)
