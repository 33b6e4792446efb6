"""`clara experiment` writes result, page and picture."""

import argparse
import json

import pytest
from clara.commands import experiment


def run(*words):
    parser = argparse.ArgumentParser()
    experiment.add_arguments(parser)
    experiment.run(parser.parse_args(words))


def test_writes_result_page_and_picture(checkpoint, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    file = tmp_path / "rows.jsonl"
    row = {"golden_answers": ["Leipzig"], "docs": ["Clara was born in Leipzig."], "pos_index": [0]}
    file.write_text("".join(json.dumps({"question": q, **row}) + "\n" for q in ("who was born", "where")))
    points = [f"10={checkpoint}", f"20={checkpoint}"]
    words = ["--files", str(file), "--max-new-tokens", "2", "--device", "cpu", "--output", str(tmp_path)]
    run("scaling-curve", "--points", *points, *words)
    result = json.loads((tmp_path / "scaling-curve.json").read_text())
    assert result["command"].startswith("clara experiment scaling-curve --points")
    assert result["model"] is None
    assert (result["result"]["questions"], result["result"]["source"]) == (2, "rows.jsonl")
    page = (tmp_path / "scaling-curve.md").read_text()
    assert page in capsys.readouterr().out
    assert "scaling-curve.png" in page
    assert (tmp_path / "scaling-curve.png").is_file()


def test_a_model_experiment_names_its_model(checkpoint, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("markitdown")
    words = ["--limit", "1", "--max-new-tokens", "2", "--device", "cpu", "--output", str(tmp_path)]
    run("handbook", "--model", checkpoint, *words)
    assert "at 16x (fingerprint" in json.loads((tmp_path / "handbook.json").read_text())["model"]


@pytest.mark.parametrize("name", experiment.EXPERIMENTS)
def test_every_experiment_has_the_five_parts(name):
    module = experiment.find(name)
    assert isinstance(module.NEEDS_MODEL, bool)
    assert all(callable(getattr(module, part)) for part in ("add_arguments", "measure", "render", "plot"))
