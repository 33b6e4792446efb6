"""The pass over the memories, the choice of effort by hand, and what building refuses."""

import numpy as np
import pytest
import torch
from clara import indexing_clara
from clara.index_clara import Effort, SketchIndex, make_searcher
from clara.indexing_clara import build_index, choose_effort
from clara.memory_clara import CorpusMemory
from clara.sketch_clara import Sketch

pytest.importorskip("faiss")


def make_corpus(count=600, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, 12, generator=generator) @ torch.randn(12, 40, generator=generator) + 2
    return CorpusMemory(values.unflatten(1, (4, 10)), [str(row) for row in range(count)])


def test_one_pass_gives_sketches_and_exact_neighbours(monkeypatch):
    memory = make_corpus()
    monkeypatch.setattr(indexing_clara, "default_block_size", lambda width: 250)
    tests = make_corpus(4, seed=1)[:]
    sketch = Sketch(torch.zeros(40), torch.eye(40)[:6], torch.eye(7))
    sketches = np.zeros((600, 7), np.float32)
    truth = indexing_clara.sketch_rows(memory, sketch, tests, sketches, False)
    flat = memory[:].flatten(1)
    assert np.allclose(sketches, sketch.project(flat, flat.norm(dim=1)).numpy(), atol=1e-6)
    exact = memory.search(tests, 5, exact=True)[1]
    assert truth.tolist() == exact.tolist()


def line_index(values):
    """Documents on a quarter of a circle, at these angles; questions lie at the angle 0."""
    rows, sketch = (
        torch.stack([values.cos(), values.sin()], 1),
        Sketch(torch.zeros(2), torch.eye(2), torch.eye(3)),
    )
    return SketchIndex(
        "flat",
        sketch,
        make_searcher("flat", sketch.project(rows, torch.ones(len(rows))).numpy()),
        Effort(1, 0),
    )


def test_recall_is_measured_on_the_half_that_chose_nothing():
    """The truth is first by sketch (even tests) or twelfth (odd ones): effort 2 is enough for the even."""
    values = torch.linspace(0, 1, 100)
    index = line_index(values)
    tests, truth = torch.tensor([[[1.0, 0.0]]] * 4), torch.tensor([[0], [11], [1], [12]])
    effort, found = choose_effort(index, tests, truth, 10)
    assert effort == Effort(2.0, 0)
    assert found == {"mean": 0.0, "questions": 2}
    effort, found = choose_effort(index, tests.flip(0), truth.flip(0), 10)
    assert effort == Effort(16.0, 0) and found["mean"] == 1.0


def test_unreachable_recall_is_said(caplog):
    values = torch.linspace(0, 1, 3000)
    index = line_index(values)
    _, found = choose_effort(index, torch.tensor([[[1.0, 0.0]]] * 2), torch.tensor([[2999], [0]]), 10)
    assert "reaches recall@1 0.000 at most, below 0.990" in caplog.text


@pytest.mark.parametrize("kind", ["flat", "ivf_rabitq"])
def test_reaches_its_recall(kind):
    memory = make_corpus(2000)
    questions = make_corpus(60, seed=2)[:]
    index = build_index(memory, kind, dimensions=16, questions=questions)
    assert index.recall["at"] == 5 and index.recall["questions"] == 30
    assert index.recall["of"] == "given questions" and index.recall["mean"] >= 0.97
    assert len(index) == 2000 and index.kind == kind
    assert build_index(memory, kind, 16).recall["of"] == "mean of two stored memories"


@pytest.mark.parametrize("count", [1, 2, 6])
def test_tiny_corpora(count):
    memory = make_corpus(count)
    memory.build_index()
    query = make_corpus(2, seed=5)[:]
    assert torch.equal(memory.search(query, count)[1], memory.search(query, count, exact=True)[1])


def test_the_same_seed_gives_the_same_index():
    memory, query = make_corpus(), make_corpus(3, seed=9)[:]
    first, second = (build_index(memory, "rabitq", 16) for _ in range(2))
    assert first.effort == second.effort and torch.equal(first.propose(query, 50), second.propose(query, 50))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "hnsw"}, "`kind` must be one of"),
        ({"dimensions": 1}, "`dimensions` must be at least 2, got 1"),
        ({"recall": 0.0}, "`recall` must be above 0"),
        (
            {"questions": torch.ones(2, 3, 10)},
            r"`questions` must be \(T, M, H\).*\(4, 10\), got \(2, 3, 10\)",
        ),
        ({"questions": torch.ones(1, 4, 10)}, "T of at least 2"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_index(make_corpus(10), **arguments)
