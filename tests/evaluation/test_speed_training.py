"""The compared steps compute the same loss, and a measured step changes no weight."""

import pytest
import torch
from clara.data.records import PretrainingRecord
from clara.evaluation.speed.rows import sample_rows
from clara.evaluation.speed.training import (
    ALL,
    BUCKETS,
    ONE,
    PADDED,
    RECOMPRESSED,
    STORED,
    Stepper,
    bench_training,
    bucketed,
    buckets,
    collator,
    end_to_end,
    grouped,
    recompressed,
    signals,
    split,
)
from clara.train.memories import store_candidates
from conftest import make_model
from speed_helpers import TINY

ROWS = sample_rows(TINY, 2)


@pytest.fixture
def still(base):
    """A model without dropout, so that equal work gives equal losses."""
    return make_model(base, lora_dropout=0.0, retrieval_top_k=2)


def state(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_recompressing_gives_the_stored_memories_and_the_same_loss(still):
    candidates = store_candidates(still, ROWS.questions, None)
    places = torch.tensor([[3, 1], [0, 4]])
    again, new_places = recompressed(still, candidates, places)
    stored = candidates.batch(places, 4)
    torch.testing.assert_close(again.batch(new_places, 4), stored, atol=1e-4, rtol=1e-4)
    runs = end_to_end(still, ROWS, TINY).runs
    losses = {name: run(1) for name, run in runs.items()}
    assert losses[RECOMPRESSED] == pytest.approx(losses[STORED], rel=1e-4)
    assert runs[STORED](0) != pytest.approx(losses[STORED], rel=1e-4)


def test_signals_together_and_apart_give_the_same_loss(still):
    collate, groups = collator(still), grouped(ROWS.rich, TINY.rows)
    together, apart = collate(groups[0]), collate(split(groups[0]))
    assert together["document_input_ids"].shape[0] == 2 and apart["document_input_ids"].shape[0] == 6
    assert len(together["labels"]) == len(apart["labels"]) == 6
    runs = signals(still, ROWS, TINY).runs
    assert runs[ALL](0) == pytest.approx(runs[ONE](0), rel=1e-4)


def test_buckets_and_padding_train_on_the_same_rows(still, monkeypatch):
    widths = []
    seen = Stepper.__call__

    def noted(self, batch):
        widths.append(batch["document_input_ids"].shape[1])
        return seen(self, batch)

    monkeypatch.setattr(Stepper, "__call__", noted)
    batches = bucketed(ROWS.plain, TINY)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    runs = buckets(still, ROWS, TINY).runs
    loss = runs[BUCKETS](0)
    assert len(widths) == 3 and max(widths) <= 64
    widths.clear()
    assert runs[PADDED](0) == pytest.approx(loss, rel=0.05) and loss > 0
    assert widths == [TINY.padded] * 3


def test_buckets_are_those_of_a_whole_epoch():
    """Lengths 1 to 400: the rows of a step differ little, far less than any rows would."""
    records = [PretrainingRecord("x" * (length + 1)) for length in range(400)]
    sizes = TINY.__class__(bucket_rows=16, bucket_batch=4)
    batches = bucketed(records, sizes)
    assert [len(batch) for batch in batches] == [4] * 4
    lengths = [[len(item.record.document) for item in batch] for batch in batches]
    assert all(max(row) - min(row) < 40 for row in lengths)
    assert max(map(max, lengths)) - min(map(min, lengths)) > 100


def test_all_logits_give_the_loss_of_the_labelled_ones(still):
    step = Stepper(still, "pretraining")
    batch = collator(still)(grouped(ROWS.rich, TINY.rows)[0])
    assert step.with_all_logits(batch) == pytest.approx(step(batch), rel=1e-4)


@pytest.mark.parametrize("stage", ["end_to_end", "pretraining"])
def test_a_step_computes_gradients_but_changes_nothing(still, stage, monkeypatch):
    runs = end_to_end(still, ROWS, TINY).runs if stage == "end_to_end" else signals(still, ROWS, TINY).runs
    before, norms = state(still), []
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *call: norms.append(clip(*call)))
    next(iter(runs.values()))(0)
    assert still.training and float(norms[0]) > 0
    assert all(torch.equal(parameter, before[name]) for name, parameter in state(still).items())
    assert all(parameter.grad is None for parameter in still.parameters())


def test_reports_all_four_comparisons(still):
    sections = list(bench_training(still, ROWS, TINY, 2))
    assert [section["name"] for section in sections] == ["end_to_end", "signals", "buckets", "logits"]
    needed = [item["needed"] for section in sections for item in section["ratios"]]
    assert needed == [10.0, 1.4, 1.3]
    facts = sections[0]["facts"]
    assert facts["tokens of all candidates of a step"] == pytest.approx(
        TINY.questions * TINY.candidates * facts["tokens of a candidate, mean"]
    )
    together = sections[1]["variants"][0]
    assert together["rates"]["signals"] == pytest.approx(6 / together["median_seconds"])
    facts = sections[3]["facts"]
    assert 0 < facts["of these labelled"] < facts["positions of the prompts"]
    assert set(facts["peak MB"]) == {"all logits", "labelled logits"}
