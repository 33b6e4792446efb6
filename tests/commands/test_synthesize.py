import argparse
import json

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("py3langid")
pytest.importorskip("bm25s")

from clara.commands import synthesize
from clara.data.readers import read_pretraining, read_questions
from clara.data.synthesis import report


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    monkeypatch.setattr(report, "_picture", lambda counts, path: None)


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "documents.jsonl"
    text = "The tower of Town was built in {} by Anna Smith. It has {} steps of stone."
    rows = [{"id": str(n), "text": text.format(1900 + n, 30 + n)} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(*words):
    parser = argparse.ArgumentParser()
    synthesize.add_arguments(parser)
    synthesize.run(parser.parse_args(list(map(str, words))))


def test_pretraining_rows_then_instruction_and_end_to_end_rows(documents, tmp_path, capsys):
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    run(documents, "--teacher", "scripted", "--output", one, "--limit", 5)
    shown = capsys.readouterr().out
    assert "5 of 5 passages (100.0%) yielded at least one signal" in shown
    assert "5/5" in shown
    assert len(list(read_pretraining(one / "data"))) == 5
    stage = ["--stage", "instruction_tuning", "--questions", one / "data", "--documents-each", 3]
    run(documents, "--teacher", "scripted", "--output", two, *stage)
    records = list(read_questions(two / "data"))
    assert records and all(len(record.documents) == 3 for record in records)
    stage = ["--stage", "end_to_end", "--questions", one / "data", "--pool-size", 4, "--format", "parquet"]
    run(documents, "--output", three, *stage)
    records = list(read_questions(three / "data"))
    assert records and all(len(record.documents) == 4 and record.positives for record in records)


def test_hard_candidates_from_a_corpus_memory(shared_model, checkpoint, tmp_path):
    from conftest import DOCUMENTS

    store, questions = tmp_path / "store", tmp_path / "questions.jsonl"
    shared_model.build_memory(DOCUMENTS, show_progress=False).save_pretrained(store)
    row = {
        "question": "What is it?",
        "golden_answers": [DOCUMENTS[3]],
        "docs": [DOCUMENTS[0]],
        "pos_index": [0],
    }
    questions.write_text(json.dumps(row) + "\n")
    words = ["--stage", "end_to_end", "--questions", questions, "--pool-size", 5, "--clara", checkpoint]
    run(store, *words, "--without-answers", "--output", tmp_path / "out")
    (record,) = read_questions(tmp_path / "out" / "data")
    assert set(record.documents) == {*DOCUMENTS} - {DOCUMENTS[3]} and len(record.positives) == 1
    assert "pools of BM25 and CLaRa in turns" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ValueError, match="`--clara` searches one corpus memory, got 2 documents"):
        run(store, store, *words, "--output", tmp_path / "other")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "x"], "`--teacher` is needed for stage pretraining"),
        (["--output", "x", "--stage", "end_to_end"], "`--questions` is needed for stage end_to_end"),
        (["--output", "x", "--teacher", "qwen"], "`teacher` must be an address"),
        (["--output", "x", "--teacher", "scripted", "--kinds", "hard"], "`kinds` must name"),
    ],
)
def test_wrong_words_are_explained(documents, words, message):
    with pytest.raises(ValueError, match=message):
        run(documents, *words)


def test_unreachable_teacher_is_one_error_that_names_the_address(documents, tmp_path):
    pytest.importorskip("openai")
    with pytest.raises(ConnectionError, match="no teacher answers at http://127.0.0.1:9/v1"):
        run(documents, "--teacher", "http://127.0.0.1:9/v1", "--model", "m", "--output", tmp_path / "out")


def test_progress_sums_the_ranks_and_says_the_cost(tmp_path, capsys):
    (tmp_path / "progress").mkdir()
    for rank in range(2):
        values = {"items": 4, "accepted": 3, "calls": 50, "prompt_tokens": 9000, "completion_tokens": 1000}
        (tmp_path / "progress" / f"{rank:05d}.json").write_text(json.dumps(values))
    with synthesize._progress(tmp_path, 10, (1.0, 5.0)):
        pass
    shown = capsys.readouterr().out
    assert "8/10" in shown
    totals = report.total_progress(tmp_path)
    assert synthesize.describe(totals, 1.0, 5.0) == "100 calls, 20.0k tokens, yield 75%, cost 0.03"
    assert synthesize.describe(totals) == "100 calls, 20.0k tokens, yield 75%"


@pytest.mark.slow
def test_the_samples_rows_train(base, tmp_path, monkeypatch, capsys):
    """All samples through the scripted teacher, then a pretraining run of the tiny recipe on the rows."""
    from clara.commands.main import main
    from clara.data.synthesis.finish import read_outcomes
    from conftest import ROOT

    monkeypatch.setattr("clara.train.curves._draw", lambda *_: None)
    monkeypatch.setenv("CLARA_BASE", base)
    monkeypatch.setenv("CLARA_RUNS", str(tmp_path))
    rows, samples = tmp_path / "rows", ROOT / "data" / "samples" / "corpus.jsonl"
    assert main(["synthesize", str(samples), "--teacher", "scripted", "--output", str(rows)]) == 0
    assert len(list(read_outcomes(rows))) >= len(samples.read_text().splitlines())
    records = list(read_pretraining(rows / "data"))
    assert len(records) > 40 and sum(record.num_signals for record in records) > 100
    recipe = str(ROOT / "train" / "recipes" / "tiny.yaml")
    train = ["train", "pretraining", "--config", recipe, "--train_files", str(rows / "data")]
    assert main([*train, "--max_steps", "2", "--eval_strategy", "no"]) == 0, capsys.readouterr().err
    history = json.loads((tmp_path / "tiny" / "curves.json").read_text())
    assert [row["step"] for row in history if "loss" in row] == [1, 2]
    assert "data" in (tmp_path / "tiny" / "final" / "README.md").read_text()
