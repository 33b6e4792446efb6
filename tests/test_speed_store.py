"""The benchmark of the store in a small form, and its pieces by hand."""

import json

import pytest
import torch
from clara.evaluation.speed import enlarge
from clara.evaluation.speed.report import section_markdown
from clara.evaluation.speed.store import Plan, bench_store, gaps_of, plot_curve, recall_at
from clara.memory_clara import CorpusMemory
from test_speed_enlarge import real_memories

pytest.importorskip("faiss")


def test_recall_by_hand():
    assert recall_at(
        torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[3, 1, 9], [4, 5, 6]])
    ) == pytest.approx(5 / 6)


def test_gaps_by_hand():
    scores = torch.linspace(1, 0.5, 51)[None, :50].expand(3, -1)
    assert gaps_of(scores) == "1–5: 0.04000, 5–6: 0.01000, 5–10: 0.05000, 5–50: 0.45000"
    assert gaps_of(scores[:, :7]) == "1–5: 0.04000, 5–6: 0.01000"


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_two_sizes(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(enlarge, "BLOCK_ROWS", 100)
    real = CorpusMemory(real_memories(50, width=200), [str(row) for row in range(50)])
    asked, learned, tests = real_memories(40, width=200, seed=4).split([6, 22, 12])
    plan = Plan(tmp_path, (400, 150), dimensions=16, dtype=dtype, repeats=2)
    section = bench_store(real, asked, learned, tests, plan)
    assert section.name == "store" and "up to 400 passages" in section.title
    assert len(section.lines) == 8 and all(len(item.seconds) == 2 for item in section.lines)
    assert [item.needed for item in section.ratios] == [50.0] * 3
    facts = section.facts
    assert facts["passages"] == 400 and facts["real passages"] == 50
    assert facts["dtype of the memories"] == dtype and facts["kind of index"] == "flat"
    assert facts["recall@5 of the 6 questions timed"] >= 0.9 and facts["opening reached (1 s)"]
    assert 0 < facts["real passages among the exact five"] <= 1
    curve = json.loads(facts["curve"])
    assert [row["passages"] for row in curve] == [150, 400]
    assert [path.name for path in tmp_path.iterdir()] == ["store-400"]  # the smaller one is gone
    assert "exact / two-stage after it" in section_markdown(section)
    plot_curve(curve, tmp_path / "store.png")
    assert (tmp_path / "store.png").stat().st_size > 1000


def test_refuses(tmp_path):
    real = CorpusMemory(real_memories(5, width=40), list("abcde"))
    query = real_memories(3, width=40)
    with pytest.raises(ValueError, match="needs questions and a size, got 0"):
        bench_store(real, query[:0], query, query, Plan(tmp_path, (10,)))
