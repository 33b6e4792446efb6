import json

import pytest
import torch
from clara.evaluation.speed.store import Plan, bench_store, enlarged, gaps, mixed
from clara.memory_clara import CorpusMemory
from clara.store import CorpusStore
from memory_helpers import make_memory


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
    names = [line["name"] for line in section["variants"]]
    assert [name.split(" passages")[0] for name in names] == ["300"] * 3 + ["600"] * 3
    first, facts = section["ratios"][0], section["facts"]
    assert len(section["ratios"]) == 2 and first["needed"] == 10 and first["median"] > 0
    recalls = [value for name, value in facts.items() if name.startswith("recall@5")]
    assert 0.8 <= recalls[0] <= 1 and facts["passages"] == 600 and facts["real passages"] == 200
    assert len(facts["reached"]) == 5 and set(facts["reached"].values()) <= {True, False}
    assert facts["reached"]["opening, at most 0.1"] is (facts["seconds"]["opening"] <= 0.1)
    assert [row["passages"] for row in json.loads(facts["curve"])] == [300, 600]
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
    assert gaps(torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5, 0.25]])) == "1–5: 0.40000, 5–6: 0.25000"


REAL = torch.nn.functional.normalize(torch.randn(40, 16, generator=torch.Generator().manual_seed(1)), dim=1)


def test_mixed_copies_keep_mean_and_spread():
    copies, rows = mixed(REAL * 3, 0, 4000)
    assert copies.shape == (4000, 16) and rows.max() < 40
    torch.testing.assert_close(copies.norm(dim=1), torch.ones(4000))
    torch.testing.assert_close(copies.mean(dim=0), REAL.mean(dim=0), atol=0.04, rtol=0)
    spread = [(part - part.mean(dim=0)).square().sum(dim=1).mean() for part in (REAL, copies)]
    assert 0.9 < spread[1] / spread[0] < 1.1


def test_blocks_are_the_same_again_and_differ():
    assert torch.equal(mixed(REAL, 3, 5)[0], mixed(REAL, 3, 5)[0])
    assert not torch.equal(mixed(REAL, 3, 5)[0], mixed(REAL, 4, 5)[0])


def test_one_vector_cannot_be_mixed():
    with pytest.raises(ValueError, match="at least 2 vectors"):
        mixed(REAL[:1], 0, 5)


def test_an_enlarged_corpus_begins_with_the_real_one():
    real = make_memory(7)
    first, *others = enlarged(real, 5000)
    assert first.document_ids == real.document_ids and torch.equal(first.vectors, real.vectors)
    assert len(first) + sum(map(len, others)) == 5000
    names = [name for part in others for name in part.document_ids]
    assert len(set(names)) == 4993 and others[0].texts[0] in real.texts
    assert [len(part) for part in enlarged(real, 4)] == [4]
