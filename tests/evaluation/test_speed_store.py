import pytest
import torch
from clara.evaluation.speed.store import Plan, bench_store, gaps_of
from clara.memory_clara import CorpusMemory
from clara.store import CorpusStore


def real_memory():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400, 16, generator=generator) + 1
    return CorpusMemory(
        values, [f"text {row}" for row in range(200)], fingerprint="f", offsets=torch.arange(0, 401, 2)
    )


def test_every_figure_is_measured(tmp_path):
    real, ticks = real_memory(), []
    plan = Plan(tmp_path, (300, 600), repeats=2, tick=ticks.append)
    section = bench_store(real, real.vectors[:8] + 0.2, real.vectors[8:40] + 0.2, plan)
    assert [line.name.split(" passages")[0] for line in section.lines] == ["300"] * 3 + ["600"] * 3
    assert len(section.ratios) == 2 and section.ratios[0].needed == 10 and section.ratios[0].median > 0
    recalls = [value for name, value in section.facts.items() if name.startswith("recall@5")]
    assert (
        0.8 <= recalls[0] <= 1 and section.facts["passages"] == 600 and section.facts["real passages"] == 200
    )
    for name in ("opening", "append", "gather", "question", "bytes"):
        reached = [value for fact, value in section.facts.items() if fact.startswith(f"{name} reached")]
        assert len(reached) == 1 and reached[0] in (True, False)
    assert not (tmp_path / "store-300").exists() and sum(ticks) == 900
    store = CorpusStore.open(tmp_path / "store-600")
    assert len(store) == 600 and store.document_ids[0] == "0" and store.document_ids[200] == "copy 200"


def test_a_store_that_is_there_is_used_again(tmp_path):
    real, ticks = real_memory(), []
    plan = Plan(tmp_path, (300,), repeats=1, tick=ticks.append)
    for _ in range(2):
        bench_store(real, real.vectors[:2], real.vectors[8:16], plan)
    assert sum(ticks) == 300


def test_nothing_to_measure_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs questions and a size"):
        bench_store(real_memory(), torch.ones(0, 16), torch.ones(4, 16), Plan(tmp_path, (300,)))


def test_gaps_by_hand():
    assert gaps_of(torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5, 0.25]])) == "1–5: 0.40000, 5–6: 0.25000"
