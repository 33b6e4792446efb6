"""The training script on the tiny recipe: whole, killed and resumed, prepared only, on a bare machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from clara.commands.main import main as clara
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.train.recipe import ScriptArguments, parse_arguments
from clara.train.run import load_held_out, load_records, main
from conftest import ROOT
from safetensors.torch import load_file

TINY = str(ROOT / "train" / "recipes" / "tiny.yaml")
ROWS = ROOT / "train" / "recipes"


@pytest.fixture
def variables(monkeypatch, base, tmp_path):
    monkeypatch.setattr("clara.train.curves._draw", lambda *_: None)  # takes longer than training here
    monkeypatch.setenv("CLARA_BASE", base)
    monkeypatch.setenv("CLARA_RUNS", str(tmp_path))


def script(**fields):
    return ScriptArguments(base="b", **{"train_files": [str(ROWS / "tiny_pretraining.jsonl")], **fields})


def history(folder):
    checkpoint = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]


def losses(folder):
    return {row["step"]: row["loss"] for row in history(folder) if "loss" in row}


def weights(folder):
    files = sorted((folder / "final").glob("*/adapter_model.safetensors"))
    return {f"{f.parent.name}/{key}": t for f in files for key, t in load_file(f).items()}


# Reading


def test_rows_of_a_document_are_joined_over_files(tmp_path):
    lines = (ROWS / "tiny_pretraining.jsonl").read_text().splitlines()
    (tmp_path / "qa.jsonl").write_text("\n".join(line for line in lines if '"qa"' in line))
    (tmp_path / "rest.jsonl").write_text("\n".join(line for line in lines if '"qa"' not in line))
    files = [str(tmp_path / "qa.jsonl"), str(tmp_path / "rest.jsonl")]
    records = load_records(script(train_files=files), "pretraining")
    assert {r.document: r.num_signals for r in records} == {
        r.document: r.num_signals for r in load_records(script(), "pretraining")
    }
    assert len(records) == 12 and records[0].num_signals == 3


def test_limits_and_unlabelled_documents(tmp_path):
    everything = load_records(script(), "pretraining")
    drawn = load_records(script(train_limit=5), "pretraining")
    assert len(drawn) == 5 and drawn == [record for record in everything if record in drawn]
    assert drawn != everything[:5] and drawn == load_records(script(train_limit=5), "pretraining")
    assert load_records(script(train_limit=5, streaming=True), "pretraining") == everything[:5]
    assert load_records(script(train_limit=99), "pretraining") == everything
    short = load_records(script(max_document_characters=80), "pretraining")
    assert short and all(len(record.document) <= 80 for record in short)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "1", "title": "Fog", "text": "It is grey."}\n')
    records = load_records(script(corpus_files=[str(corpus)]), "pretraining")
    assert records[-1].document == "Fog\nIt is grey." and records[-1].num_signals == 0


def test_question_rows_give_their_gold_documents():
    rows = [str(ROWS / "tiny_questions.jsonl")]
    gold = load_held_out(script(eval_files=rows), "pretraining")
    both = load_records(script(question_files=rows), "pretraining")
    assert gold and both == load_records(script(), "pretraining") + gold


def test_held_out_questions_become_documents_in_pretraining():
    files = [str(ROWS / "tiny_questions.jsonl")]
    (first, *_) = load_held_out(script(eval_files=files), "pretraining")
    assert first.document.startswith("The inn") and first.answers == (("cider",),)
    questions = load_held_out(script(eval_files=files, eval_limit=2), "end_to_end")
    assert len(questions) == 2 and questions[0].positives == (0,)
    widest = max(len(row.documents) for row in load_records(script(train_files=files), "end_to_end"))
    wide = load_records(script(train_files=files, fewest_documents=widest), "end_to_end")
    assert wide and all(len(row.documents) == widest for row in wide)
    assert load_records(script(train_files=files, fewest_documents=widest + 1), "end_to_end") == []
    assert load_held_out(script(), "pretraining") == []


# Running


def test_the_tiny_recipe_trains_and_writes_a_model_with_its_card(variables, tmp_path):
    main(
        ["--config", TINY, "--max_steps", "2", "--eval_steps", "2"],
        "clara train pretraining --config tiny.yaml",
    )
    folder = tmp_path / "tiny"
    names = {"curves.json", "memory_controls.jsonl", "samples.jsonl", "README.md", "final"}
    assert names <= {path.name for path in folder.iterdir()}
    assert (folder / "checkpoint-2" / "complete.json").is_file()
    card = (folder / "final" / "README.md").read_text()
    for part in (
        "2 of 2 optimizer steps",
        "`pretraining`",
        "clara train pretraining",
        "tiny_pretraining.jsonl",
    ):
        assert part in card
    model = ClaraForRetrievalGeneration.from_pretrained(folder / "final")
    assert isinstance(model.generate("What?", ["A text."], max_new_tokens=2), str)


def test_the_next_stages_start_from_the_last(variables, tmp_path, monkeypatch):
    quick = ["--max_steps", "1", "--controls", "false", "--samples", "0"]
    main(["--config", TINY, *quick])
    rows = [
        "--train_files",
        str(ROWS / "tiny_questions.jsonl"),
        "--use_cpu",
        "--per_device_train_batch_size",
        "2",
    ]
    model = str(tmp_path / "tiny" / "final")
    config = json.loads((tmp_path / "tiny" / "final" / "config.json").read_text())
    config["retrieval_top_k"] = 1
    (tmp_path / "tiny" / "final" / "config.json").write_text(json.dumps(config))
    for stage in ("instruction_tuning", "end_to_end"):
        out = ["--output_dir", str(tmp_path / stage), "--documents_per_question", "2"]
        main(["--model", model, "--stage", stage, *rows, *out, *quick])
        assert (tmp_path / stage / "final" / "query_reasoner").is_dir()
    assert (tmp_path / "end_to_end" / "memory" / "candidates.safetensors").is_file()


def test_prepare_only_stores_candidates_and_trains_nothing(variables, tmp_path):
    main(["--config", TINY, "--max_steps", "1", "--controls", "false", "--samples", "0"])
    out = ["--output_dir", str(tmp_path / "e2e"), "--use_cpu", "--stage", "end_to_end"]
    rows = ["--train_files", str(ROWS / "tiny_questions.jsonl"), "--model", str(tmp_path / "tiny" / "final")]
    with pytest.raises(ValueError, match="fewer than `retrieval_top_k` = 5"):
        main([*out, *rows, "--prepare_only"])
    final = tmp_path / "tiny" / "final" / "config.json"
    final.write_text(final.read_text().replace('"retrieval_top_k": 5', '"retrieval_top_k": 2'))
    main([*out, *rows, "--prepare_only"])
    assert (tmp_path / "e2e" / "memory" / "candidates.safetensors").is_file()
    assert not (tmp_path / "e2e" / "final").exists()


def test_time_is_up_and_the_next_command_goes_on(variables, tmp_path):
    quick = ["--config", TINY, "--max_steps", "3", "--controls", "false", "--samples", "0"]
    main([*quick, "--max_minutes", "0"])
    assert list(losses(tmp_path / "tiny")) == [1]
    main(quick)
    assert list(losses(tmp_path / "tiny")) == [1, 2, 3]


def test_the_command_tells_errors_in_a_line(variables, tmp_path, capsys, monkeypatch):
    assert clara(["train", "pretraining", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
    monkeypatch.setattr(
        "clara.train.trainer.ClaraTrainer._answer_loss", lambda *_: torch.tensor(float("nan"))
    )
    assert clara(["train", "pretraining", "--config", TINY]) == 2
    assert "clara train: The loss is nan at step 0, rows [" in capsys.readouterr().err


def test_the_stage_of_the_command_wins(variables):
    _, args = parse_arguments(["--config", TINY, "--stage", "instruction_tuning"])
    assert args.stage == "instruction_tuning"


# In processes of their own


@pytest.mark.slow
def test_killed_with_minus_nine_and_started_again_it_ends_the_same(base, tmp_path):
    """`clara train` three times: whole; killed once the second checkpoint is complete; started again."""

    def start(runs):
        env = {**os.environ, "CLARA_BASE": base, "CLARA_RUNS": str(runs), "OMP_NUM_THREADS": "1"}
        run = "import sys; from clara.commands.main import main; sys.exit(main(sys.argv[1:]))"
        options = ["train", "pretraining", "--config", TINY, "--max_steps", "16", "--eval_steps", "16"]
        return subprocess.Popen([sys.executable, "-c", run, *options], env=env, stderr=subprocess.PIPE)

    whole = start(tmp_path / "whole")
    assert whole.wait(600) == 0, whole.stderr.read().decode()[-2000:]
    cut = start(tmp_path / "cut")
    while not (tmp_path / "cut" / "tiny" / "checkpoint-4" / "complete.json").exists() and cut.poll() is None:
        time.sleep(0.005)
    cut.kill()
    assert cut.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut" / "tiny" / "final").exists()
    again = start(tmp_path / "cut")
    assert again.wait(600) == 0, again.stderr.read().decode()[-2000:]
    assert losses(tmp_path / "cut" / "tiny") == losses(tmp_path / "whole" / "tiny")
    expected, found = weights(tmp_path / "whole" / "tiny"), weights(tmp_path / "cut" / "tiny")
    assert expected.keys() == found.keys() and len(expected) > 10
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.slow
def test_it_runs_without_optional_packages(base, tmp_path):
    """On a bare GPU machine: no datasets, trl, evaluate, gguf or matplotlib."""
    code = f"""
import sys
for name in ("datasets", "trl", "evaluate", "gguf", "matplotlib", "openai", "lance"):
    sys.modules[name] = None
from clara.train.run import main
main(["--config", {TINY!r}, "--max_steps", "1", "--samples", "1"])
"""
    env = {**os.environ, "CLARA_BASE": base, "CLARA_RUNS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert Path(tmp_path, "tiny", "final", "compressor", "adapter_model.safetensors").is_file()
