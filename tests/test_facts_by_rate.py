"""Information over the rate: conditions, kinds, page and picture."""

import argparse
import json

import pytest
from clara.evaluation.experiments import facts_by_rate
from conftest import DOCUMENTS, QUESTIONS
from pictures import assert_shows

ANSWERS = ["1890", "Christiaan Huygens", "Leipzig"]
GOLD = [0, 2, 1]


@pytest.fixture
def rows(tmp_path):
    lines = [
        {"question": q, "golden_answers": [a], "docs": DOCUMENTS, "pos_index": [p]}
        for q, a, p in zip(QUESTIONS, ANSWERS, GOLD, strict=True)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def arguments(file, **kwargs):
    fields = {"files": [file], "limit": 9, "rates": [16, 64], "checkpoints": [], "rewrites": 2}
    return argparse.Namespace(**{**fields, "max_new_tokens": 2, "batch_size": 2, "seed": 0, **kwargs})


def test_every_kind_at_every_rate(shared_model, rows, tmp_path):
    result = facts_by_rate.measure(arguments(rows), shared_model)
    assert {kind: part["questions"] for kind, part in result["kinds"].items()} == {
        "date": 1,
        "name": 2,
        "all": 3,
    }
    names = ["rate 16 (trained)", "rate 64"]
    assert list(result["rates"]) == names
    assert result["rates"][names[1]] == pytest.approx(4 * result["rates"][names[0]])
    means = result["kinds"]["all"]["means"]
    assert list(means) == [*names, facts_by_rate.NONE, facts_by_rate.TEXT]
    assert means[names[0]]["loss"]["mean"] != means[facts_by_rate.NONE]["loss"]["mean"]
    assert "loss" not in means[facts_by_rate.TEXT]
    assert 0 <= result["kept"][names[0]]["rouge_l"]["mean"] <= 1
    page = facts_by_rate.render(result)
    assert "## date: 1 questions" in page
    losses = [row["loss"]["mean"] for row in means.values() if "loss" in row]
    assert_shows(facts_by_rate.plot, result, tmp_path / "picture.png", losses)


def test_default_rates_are_the_models_doubled(shared_model, checkpoint):
    more = argparse.Namespace(rates=None, checkpoints=[checkpoint])
    able = facts_by_rate.conditions_of(shared_model, more)
    assert [factor for _, factor in able.values()] == [1, 2, 4, 1]
    assert list(able)[:3] == ["rate 16 (trained)", "rate 32", "rate 64"]
    with pytest.raises(ValueError, match="multiple"):
        facts_by_rate.conditions_of(shared_model, argparse.Namespace(rates=[8], checkpoints=[]))


def test_rows_without_positives_are_refused(shared_model, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "who", "golden_answers": ["Ada"], "docs": ["Ada."]}) + "\n")
    with pytest.raises(ValueError, match="names positives"):
        facts_by_rate.measure(arguments(str(file)), shared_model)
