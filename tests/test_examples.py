"""The examples run as they are, in a tiny form, one after the other; the notebook cell by cell."""

import json
import runpy
from pathlib import Path

import pytest
from clara.modeling_clara import ClaraForRetrievalGeneration
from conftest import DOCUMENTS, ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture
def variables(monkeypatch, base, tmp_path):
    monkeypatch.setattr("clara.train.curves._draw", lambda *_: None)  # takes longer than training here
    for name, value in {"CLARA_BASE": base, "CLARA_RUNS": str(tmp_path), "CLARA_MAX_STEPS": "2"}.items():
        monkeypatch.setenv(name, value)


def test_a_script_for_each_stage(variables):
    names = [path.stem for path in EXAMPLES.glob("*.py")]
    assert sorted(names) == ["end_to_end", "instruction_tuning", "openai_client", "pretraining"]
    for name in ("pretraining", "instruction_tuning", "end_to_end"):
        final = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()
    assert "eval_contained" in Path(final, "README.md").read_text()
    model = ClaraForRetrievalGeneration.from_pretrained(final)
    assert len(model.retrieve("Who found Titan?", model.build_memory(DOCUMENTS)).document_ids) == 2


def test_openais_client(shared_model, monkeypatch, capsys):
    pytest.importorskip("prometheus_client")
    pytest.importorskip("bm25s")
    from serving_helpers import make_app, serving

    with serving(make_app(shared_model)) as url:
        monkeypatch.setenv("CLARA_URL", f"{url}/v1")
        answer = runpy.run_path(str(EXAMPLES / "openai_client.py"))["main"]("Who found Titan?")
    told = capsys.readouterr().out
    assert told.count(answer.strip()) >= 2 and "search vector of 32 numbers" in told


@pytest.mark.slow
def test_the_notebook(variables):
    notebook = json.loads((EXAMPLES / "training.ipynb").read_text())
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    space = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            *lines, last = "".join(cell["source"]).split("\n")
            exec(compile("\n".join([*lines, last]), cell["id"], "exec"), space)
    assert isinstance(eval(last, space), str)


def test_scripts_are_short_and_named_in_the_readme():
    readme = Path(EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.name != "README.md":
            assert path.name in readme and len(path.read_text().splitlines()) < 160
