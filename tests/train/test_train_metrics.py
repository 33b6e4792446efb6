"""Running means and recall, by hand."""

import pytest
import torch
from clara.evaluation.ranking import recall_at_k
from clara.train.metrics import RunningMeans, recall
from torch import tensor


def test_means_are_weighted_and_cleared():
    means = RunningMeans()
    means.add({"a": 1.0, "b": 2.0})
    means.add({"a": 4.0}, weight=3)
    assert means.pop() == {"a": (1 + 12) / 4, "b": 2.0}
    assert means.pop() == {}


def test_means_over_processes():
    """Process 0 saw one row of 1.0, process 1 three rows of 5.0, and a value of its own."""
    means, other = RunningMeans(), RunningMeans()
    means.add({"a": 1.0})
    other.add({"a": 5.0}, weight=3)
    other.add({"b": 2.0})
    assert means.pop(lambda sums: [*sums, other._sums]) == {"a": 4.0, "b": 2.0}


def test_recall_by_hand():
    scores = tensor([[0.9, 0.1, 0.8, 0.2], [0.1, 0.2, 0.3, 0.4]])
    positives = tensor([[True, True, False, False], [True, False, False, False]])
    found, count = recall(scores, positives)
    assert count == 2
    # first: gold at ranks 1 and 4; second: gold at rank 4
    assert found == {"recall@1": 0.25, "recall@3": 0.25, "recall@5": 1.0}


def test_perfect_retrieval_is_one():
    scores, positives = torch.eye(4), torch.eye(4, dtype=torch.bool)
    assert recall(scores, positives) == ({"recall@1": 1.0, "recall@3": 1.0, "recall@5": 1.0}, 4)


def test_questions_without_positives_and_padding_do_not_count():
    scores = tensor([[0.5, 0.9, 0.1], [0.5, 0.6, 0.7]])
    positives = tensor([[True, False, False], [False, False, False]])
    mask = tensor([[True, False, True], [True, True, True]])
    assert recall(scores, positives, mask) == ({"recall@1": 1.0, "recall@3": 1.0, "recall@5": 1.0}, 1)
    assert recall(scores, torch.zeros_like(positives)) == ({}, 0)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_it_is_the_recall_of_evaluation(k):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(20, 8, generator=generator)
    positives = torch.rand(20, 8, generator=generator) < 0.3
    positives[:, 0] = True
    order = scores.argsort(dim=-1, descending=True).tolist()
    gold = [[i for i, is_gold in enumerate(row) if is_gold] for row in positives.tolist()]
    expected = (
        sum(recall_at_k(ranking, gold_row, k) for ranking, gold_row in zip(order, gold, strict=True)) / 20
    )
    assert recall(scores, positives)[0][f"recall@{k}"] == pytest.approx(expected)
