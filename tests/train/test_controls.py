"""Memory controls and sample answers."""

import json

import pytest
import torch
from clara.train.controls import (
    answer_loss,
    control_rows,
    memory_controls,
    sample_answers,
    shifted,
    write_rows,
)
from training_helpers import BRIDGE, PRETRAINING, QUESTION_ROWS, SCHUMANN, TITAN


def test_rows_of_both_kinds():
    rows = control_rows(PRETRAINING, limit=3)
    assert [row[0] for row in rows] == [
        "When was the Forth Bridge opened?",
        "Where was Clara Schumann born?",
        "Who found Titan?",
    ]
    assert rows[1] == ("Where was Clara Schumann born?", "Leipzig", [SCHUMANN])
    rows = control_rows(QUESTION_ROWS)
    assert rows[1] == ("Who found Titan?", "Christiaan Huygens", [TITAN]) and len(rows) == 8
    assert rows[6][2] == [SCHUMANN, TITAN]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 3, 10])
def test_nobody_keeps_the_own_documents(count, seed):
    order = shifted(count, seed)
    assert sorted(order) == list(range(count))
    assert all(place != index for index, place in enumerate(order))


def by_hand(model, question, answer, documents):
    """Loss of one answer: the memories in the slots, all logits, cross-entropy of the answer's tokens."""
    batch = model.processor.encode_prompts([question], [[4] * len(documents)], [answer])
    memory = torch.zeros(1, 0, 4, 32)
    if documents:
        memory = model.compress(**model.processor.encode_documents(documents)).values.unsqueeze(0)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], memory=memory).logits
    kept = batch["labels"][0, 1:] != -100
    loss = torch.nn.functional.cross_entropy(
        logits[0, :-1][kept], batch["labels"][0, 1:][kept], reduction="sum"
    )
    return loss.item(), int(kept.sum())


@torch.no_grad()
def test_loss_by_hand_with_unequal_numbers_of_documents(shared_model):
    rows = control_rows([QUESTION_ROWS[0], QUESTION_ROWS[6], QUESTION_ROWS[1]])
    documents = [row[2] for row in rows]
    expected = [by_hand(shared_model, *row[:2], texts) for row, texts in zip(rows, documents, strict=True)]
    loss, count = answer_loss(shared_model, rows, documents)
    assert count == sum(tokens for _, tokens in expected)
    assert loss == pytest.approx(sum(total for total, _ in expected), rel=1e-5)


@torch.no_grad()
def test_controls_by_hand(shared_model):
    rows = control_rows(QUESTION_ROWS)[:3]
    other = shifted(3, seed=0)
    sources = {
        "own": [row[2] for row in rows],
        "shuffled": [rows[place][2] for place in other],
        "none": [[], [], []],
    }
    found = memory_controls(shared_model, rows, batch_size=2)
    for name, documents in sources.items():
        parts = [by_hand(shared_model, *row[:2], texts) for row, texts in zip(rows, documents, strict=True)]
        mean = sum(total for total, _ in parts) / sum(tokens for _, tokens in parts)
        assert found[name] == pytest.approx(mean, rel=1e-5), name
    assert len({round(value, 4) for value in found.values()}) == 3


def test_samples_are_the_models_answers(shared_model):
    rows = control_rows([QUESTION_ROWS[0], QUESTION_ROWS[6]])
    samples = sample_answers(shared_model, rows, max_new_tokens=4)
    said = [shared_model.generate(q, texts, max_new_tokens=4) for q, _, texts in rows]
    assert [sample["generated"] for sample in samples] == said
    assert samples[0] == {"question": rows[0][0], "answer": "1890", "generated": said[0]}


def test_a_run_cut_off_leaves_no_rows_twice(tmp_path):
    file = tmp_path / "run" / "samples.jsonl"
    write_rows(file, 10, [{"own": 1.0}])
    write_rows(file, 20, [{"own": 2.0}, {"own": 3.0}])
    write_rows(file, 30, [{"own": 4.0}])
    write_rows(file, 20, [{"own": 5.0}])
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows == [{"step": 10, "own": 1.0}, {"step": 20, "own": 5.0}]
    assert [path.name for path in file.parent.iterdir()] == ["samples.jsonl"]


def test_documents_beyond_the_limit_are_cut(shared_model):
    rows = [("What?", "a bridge", [BRIDGE * 20])]
    assert answer_loss(shared_model, rows, [[BRIDGE * 20]])[0] > 0
