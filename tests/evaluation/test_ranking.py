"""Worked examples of the ranking metrics, and agreement with ir-measures on random rankings."""

import math
import random

import pytest
from clara.evaluation.ranking import ndcg_at_k, precision_at_k, recall_at_k, reciprocal_rank, score_ranking

RANKED = ["d", "a", "x", "b", "y"]
POSITIVES = {"a", "b"}


def test_worked_example():
    assert recall_at_k(RANKED, POSITIVES, 1) == 0
    assert recall_at_k(RANKED, POSITIVES, 3) == 0.5
    assert recall_at_k(RANKED, POSITIVES, 5) == 1
    assert precision_at_k(RANKED, POSITIVES, 2) == 0.5
    assert precision_at_k(RANKED, POSITIVES, 10) == 0.2
    assert reciprocal_rank(RANKED, POSITIVES) == 0.5
    assert reciprocal_rank(RANKED, POSITIVES, k=1) == 0
    expected = (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3))
    assert ndcg_at_k(RANKED, POSITIVES, 5) == pytest.approx(expected)


def test_a_split_document_counts_once():
    ranked = ["a", "a", "a", "b"]  # three passages of one parent take three places
    assert recall_at_k(ranked, ["a", "b"], 3) == 0.5
    assert precision_at_k(ranked, ["a", "b"], 3) == pytest.approx(1 / 3)
    assert ndcg_at_k(["a", "a"], ["a"], 2) == 1
    assert recall_at_k(["a"], ["a", "a"], 1) == 1


def test_nothing_retrieved():
    assert reciprocal_rank([], ["a"]) == 0
    assert recall_at_k([], ["a"], 3) == 0


def test_bad_input():
    with pytest.raises(ValueError, match="`positives` is empty"):
        recall_at_k(RANKED, [], 3)
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        precision_at_k(RANKED, POSITIVES, 0)
    with pytest.raises(ValueError, match="`ranked` has 1 items but `positives` has 2"):
        score_ranking([RANKED], [["a"], ["b"]])


def test_agrees_with_ir_measures():
    ir_measures = pytest.importorskip("ir_measures")
    draw = random.Random(7)
    documents = [f"d{i}" for i in range(20)]
    rankings = {f"q{i}": draw.sample(documents, 12) for i in range(30)}
    relevant = {question: draw.sample(documents, draw.randint(1, 4)) for question in rankings}
    qrels = {question: dict.fromkeys(ids, 1) for question, ids in relevant.items()}
    run = {
        question: {document: 100.0 - rank for rank, document in enumerate(ranked)}
        for question, ranked in rankings.items()
    }
    names = {"recall@3": "R@3", "recall@5": "R@5", "precision@5": "P@5", "ndcg@5": "nDCG@5", "mrr": "RR"}
    ours = score_ranking(list(rankings.values()), list(relevant.values()))
    measures = [ir_measures.parse_measure(name) for name in names.values()]
    theirs = ir_measures.calc_aggregate(measures, qrels, run)
    for name, measure in zip(names, measures, strict=True):
        assert sum(ours[name]) / len(rankings) == pytest.approx(theirs[measure], abs=1e-9), name


def test_the_ideal_ranking_has_no_more_positives_than_places_nor_copies():
    """Three positives and two places: two of them on top are ideal. A positive named twice is one."""
    assert ndcg_at_k(["a", "b", "x"], ["a", "b", "c"], 2) == pytest.approx(1.0)
    assert ndcg_at_k(["a", "x"], ["a", "a"], 2) == pytest.approx(1.0)
    assert ndcg_at_k(["x", "a"], ["a"], 2) == pytest.approx(1 / math.log2(3))
