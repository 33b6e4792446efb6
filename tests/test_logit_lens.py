"""The words of a memory that was set by hand; the experiment on a tiny model."""

import argparse
import json

import pytest
from clara.data.records import QuestionRecord
from clara.evaluation.experiments import logit_lens as experiment

from .conftest import DOCUMENTS, QUESTIONS


def test_words_of():
    assert experiment.words_of([" Oklahoma", "the", " of", "NFL", "nfl", "!!", "ab", " with", "1925"]) == [
        "oklahoma",
        "nfl",
        "1925",
    ]


def test_wanted_words_by_hand():
    record = QuestionRecord("Who found Titan?", ("Huygens",), ("Huygens found Titan with lenses.", "x"), (0,))
    other = QuestionRecord("q", ("a",), ("Basalt cools; Huygens",), (0,))
    assert experiment.wanted_words(record, other) == {
        "question": {"found", "titan"},
        "answer": {"huygens"},
        "documents": {"huygens", "lenses"},
        "other_documents": {"basalt", "cools"},
    }


def test_the_whole_experiment(shared_model, tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [
        {"question": q, "golden_answers": ["Leipzig"], "docs": DOCUMENTS[:3], "pos_index": [i]}
        for i, q in enumerate(QUESTIONS)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parser = argparse.ArgumentParser()
    experiment.add_arguments(parser)
    everything = ["--file", str(file), "--top", "481"]
    result = experiment.measure(parser.parse_args(everything), shared_model)
    assert result["questions"] == 3
    assert result["shares"]["question"]["questions"] == 3
    assert all(0 <= share["mean"] <= 1 for share in result["shares"].values())
    assert len(result["examples"][0]["words"]) == shared_model.config.num_memory_tokens
    page = experiment.render(result)
    assert QUESTIONS[0] in page
    pytest.importorskip("matplotlib")
    experiment.plot(json.loads(json.dumps(result)), tmp_path / "x.png")
    assert (tmp_path / "x.png").is_file()
    with pytest.raises(ValueError, match="has 1 questions with positives"):
        experiment.measure(parser.parse_args(["--file", str(file), "--limit", "1"]), shared_model)
