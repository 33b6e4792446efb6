"""Curves of a run as JSON and PNG."""

import json

from clara.train import curves
from clara.train.curves import series, write_curves

HISTORY = [
    {"loss": 3.0, "grad_norm/compressor": 0.5, "step": 1},
    {"loss": 2.0, "grad_norm/compressor": 0.4, "step": 2},
    {"eval_loss": 2.5, "eval_loss/own": 2.0, "eval_loss/none": 3.0, "step": 2},
    {"train_runtime": 1.0, "step": 2},
]


def test_series_of_a_name():
    assert series(HISTORY, "loss") == ([1, 2], [3.0, 2.0])
    assert series(HISTORY, "eval_loss/own") == ([2], [2.0])
    assert series(HISTORY, "recall@1") == ([], [])


def test_json_holds_everything_and_the_picture_the_panels_that_have_values(tmp_path, monkeypatch):
    drawn = {}
    draw = curves._draw

    def note(history, panels, file):
        drawn.update(panels)
        draw(history, panels, file)

    monkeypatch.setattr(curves, "_draw", note)
    write_curves(HISTORY, str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "curves.json").read_text()) == HISTORY
    assert (tmp_path / "run" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert drawn == {
        "loss": ["loss", "eval_loss"],
        "answer loss by memory": ["eval_loss/own", "eval_loss/none"],
        "gradient norm": ["grad_norm/compressor"],
    }


def test_without_values_or_matplotlib_there_is_no_picture(tmp_path, monkeypatch, caplog):
    write_curves([], str(tmp_path / "empty"))
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["curves.json"]
    monkeypatch.setattr(curves.importlib.util, "find_spec", lambda name: None)
    write_curves(HISTORY, str(tmp_path / "plain"))
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["curves.json"]
    assert "matplotlib is not installed" in caplog.text
