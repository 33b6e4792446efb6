"""`clara experiment` writes result, page and picture."""

import argparse
import json

import pytest
from clara.commands import experiment


def run(*words):
    parser = argparse.ArgumentParser()
    experiment.add_arguments(parser)
    experiment.run(parser.parse_args(words))


def test_writes_result_page_and_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    words = ["topk-gradients", "--output", str(tmp_path), "--pools", "3", "--ks", "1", "--problems", "2"]
    run(*words, "--draws", "10", "--temperatures", "0.1")
    result = json.loads((tmp_path / "topk-gradients.json").read_text())
    assert result["command"].startswith("clara experiment topk-gradients --output")
    assert result["model"] is None
    assert len(result["result"]["rows"]) == 3
    page = (tmp_path / "topk-gradients.md").read_text()
    assert page in capsys.readouterr().out
    assert "topk-gradients.png" in page
    assert (tmp_path / "topk-gradients.png").is_file()


def test_a_model_experiment_names_its_model(checkpoint, tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "rows.jsonl"
    row = {"golden_answers": ["Leipzig"], "docs": ["Clara was born in Leipzig."], "pos_index": [0]}
    file.write_text("".join(json.dumps({"question": q, **row}) + "\n" for q in ("who was born", "where")))
    run(
        "memory-controls",
        "--files",
        str(file),
        "--model",
        checkpoint,
        "--device",
        "cpu",
        "--output",
        str(tmp_path),
    )
    assert "at 16x (fingerprint" in json.loads((tmp_path / "memory-controls.json").read_text())["model"]


@pytest.mark.parametrize("name", experiment.EXPERIMENTS)
def test_every_experiment_has_the_five_parts(name):
    module = experiment.find(name)
    assert isinstance(module.NEEDS_MODEL, bool)
    assert all(callable(getattr(module, part)) for part in ("add_arguments", "measure", "render", "plot"))
