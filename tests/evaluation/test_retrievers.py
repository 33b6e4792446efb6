"""Fused ranks by hand."""

import numpy as np
import pytest
from clara.evaluation.retrievers import HybridRetriever, best_of_fused


class Fixed:
    """Always the same ranking of four documents, with these scores."""

    def __init__(self, order, scores):
        self._order, self._scores = np.array(order), np.array(scores, np.float32)

    def search(self, questions, retrieval_top_k, pools=None):
        k = min(retrieval_top_k, len(self._order))
        return np.stack([self._scores[:k]] * len(questions)), np.stack([self._order[:k]] * len(questions))


MEMORIES = Fixed([0, 1, 2, 3], [0.9, 0.5, 0.1, -0.2])
WORDS = Fixed([2, 1, 0, 3], [7.0, 6.0, 0.0, 0.0])


def test_ranks_by_hand():
    """Document 0 has the ranks 1 and none, 1 has 2 and 2, 2 has 3 and 1, 3 has 4 and none."""
    scores, indices = HybridRetriever(MEMORIES, WORDS, 4).search(["a", "b"], 3)
    assert indices.tolist() == [[2, 1, 0]] * 2
    assert scores[0].tolist() == pytest.approx([0.5 / 63 + 0.5 / 61, 1 / 62, 0.5 / 61])


@pytest.mark.parametrize(("weight", "expected"), [(0.0, [0, 1, 2, 3]), (1.0, [2, 1, 0, 3])])
def test_the_ends_of_the_weight_are_one_retriever(weight, expected):
    assert HybridRetriever(MEMORIES, WORDS, 4, weight).search(["a"], 4)[1].tolist() == [expected]


def test_fewer_than_k():
    scores, indices = best_of_fused({7: 0.1, 3: 0.2}, 3)
    assert indices.tolist() == [3, 7, -1] and scores[2] == -np.inf


def test_refuses_a_weight():
    with pytest.raises(ValueError, match="`weight` must be from 0 to 1, got 2"):
        HybridRetriever(MEMORIES, WORDS, 4, 2)
