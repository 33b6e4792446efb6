"""The pass over the memories, the choice of effort by hand, and what building refuses."""

import numpy as np
import pytest
import torch
from clara import indexing_clara
from clara.index_clara import Effort, SketchIndex
from clara.indexing_clara import build_index, choose_effort
from clara.memory_clara import CorpusMemory
from clara.searchers_clara import KINDS, make_searcher
from clara.sketch_clara import DocumentSketch, QuestionSketch

pytest.importorskip("faiss")


def make_corpus(count=600, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, 12, generator=generator) @ torch.randn(12, 40, generator=generator) + 2
    return CorpusMemory(values.unflatten(1, (4, 10)), [str(row) for row in range(count)])


def test_one_pass_gives_sketches_and_exact_neighbours(monkeypatch):
    memory = make_corpus()
    monkeypatch.setattr(indexing_clara, "default_block_size", lambda width: 250)
    tests = make_corpus(4, seed=1)[:]
    sketch = DocumentSketch(torch.ones(40), torch.eye(40)[:7])
    sketches = np.zeros((600, 7), np.float32)
    truth = indexing_clara.sketch_rows(memory, sketch, tests, sketches, False)
    flat = memory[:].flatten(1)
    assert np.allclose(sketches, sketch.project(flat, flat.norm(dim=1)).numpy(), atol=1e-6)
    exact = memory.search(tests, 5, exact=True)[1]
    assert truth.tolist() == exact.tolist()


def line_index(values):
    """Documents on a quarter of a circle, at these angles; questions lie at the angle 0."""
    rows = torch.stack([values.cos(), values.sin()], 1)
    return SketchIndex(
        "flat", QuestionSketch(torch.eye(2)), make_searcher("flat", rows.numpy()), Effort(1, 0)
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


def test_a_margin_is_kept_where_there_is_one():
    """Of 50 even tests one needs 16 candidates, the others one: 0.98 is enough for 0.9, not for 0.97."""
    values = torch.linspace(0, 1, 100)
    tests, truth = torch.tensor([[[1.0, 0.0]]] * 100), torch.zeros(100, 1, dtype=torch.long)
    truth[40] = 15
    assert choose_effort(line_index(values), tests, truth, 10, recall=0.97)[0] == Effort(16.0, 0)
    assert choose_effort(line_index(values), tests, truth, 10, recall=0.9)[0] == Effort(2.0, 0)


def test_a_recall_is_reached_by_a_standard_error_where_it_can_be():
    """Of 100 even tests three find nothing and one needs 16 candidates: two reach 0.96, 0.93 for sure."""
    values = torch.linspace(0, 1, 3000)
    tests, truth = torch.tensor([[[1.0, 0.0]]] * 200), torch.zeros(200, 1, dtype=torch.long)
    truth[[0, 2, 4]], truth[6] = 2999, 15
    assert choose_effort(line_index(values), tests, truth, 10, recall=0.93)[0] == Effort(2.0, 0)
    assert choose_effort(line_index(values), tests, truth, 10, recall=0.95)[0] == Effort(16.0, 0)


def test_where_a_recall_is_out_of_reach_the_last_rows_are_not_paid_for():
    """Of 600 even tests seven find nothing; one more needs 16 candidates: less than a quarter of 0.01."""
    values = torch.linspace(0, 1, 3000)
    tests, truth = torch.tensor([[[1.0, 0.0]]] * 1200), torch.zeros(1200, 1, dtype=torch.long)
    truth[[0, 2, 4, 6, 8, 10, 12]], truth[14] = 2999, 15
    assert choose_effort(line_index(values), tests, truth, 10)[0] == Effort(2.0, 0)


def test_unreachable_recall_is_said(caplog):
    values = torch.linspace(0, 1, 3000)
    index = line_index(values)
    _, found = choose_effort(index, torch.tensor([[[1.0, 0.0]]] * 2), torch.tensor([[2999], [0]]), 10)
    assert "reaches recall@1 0.000 at most, below 0.990" in caplog.text


def test_the_cheapest_effort_counts_bytes_by_how_they_lie():
    """One cell of two and 128 memories, or both and 16: it hangs on the bytes of a memory."""

    class Index:
        num_cells, code_bytes, sketch_bytes = 2, 48, 256

        def __len__(self):
            return 4000

        def propose(self, tests, count, cells, reordered):
            place = {1: 90, 2: 9}[cells] if reordered >= 2048 else 99
            return torch.arange(1, count + 1).where(torch.arange(count) != place, 0).expand(len(tests), -1)

    tests, truth = torch.ones(2, 1, 2), torch.zeros(2, 1, dtype=torch.long)
    assert choose_effort(Index(), tests, truth, 1)[0] == Effort(128.0, 1, 1024)
    assert choose_effort(Index(), tests, truth, 10_000)[0] == Effort(16.0, 2, 2048)


@pytest.mark.parametrize("kind", ["flat", "ivf_rabitq", "ivf_pq"])
@pytest.mark.parametrize("given", [True, False])
def test_reaches_its_recall(kind, given):
    memory = make_corpus(2000)
    questions, tests = make_corpus(120, seed=2)[:].split(60)
    index = build_index(memory, kind, 16, questions if given else None, tests)
    assert index.recall["at"] == 5 and index.recall["questions"] == 30
    assert index.recall["of"] == "given questions" and index.recall["mean"] >= 0.97
    assert len(index) == 2000 and index.kind == kind


def test_means_of_memories_stand_for_tests():
    assert build_index(make_corpus(300)).recall["of"] == "mean of two stored memories"


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_tiny_corpora(count, kind):
    memory = make_corpus(count)
    memory.build_index(kind)
    query = make_corpus(2, seed=5)[:]
    assert torch.equal(memory.search(query, count)[1], memory.search(query, count, exact=True)[1])


def test_the_same_seed_gives_the_same_index():
    memory, query = make_corpus(), make_corpus(3, seed=9)[:]
    first, second = (build_index(memory, "ivf_pq", 16) for _ in range(2))
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
        ({"tests": torch.ones(1, 4, 10)}, r"`tests` must be .* T of at least 2"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_index(make_corpus(10), **arguments)
