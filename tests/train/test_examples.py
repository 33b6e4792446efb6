"""The examples run as they are, in a tiny form, one after the other; the notebook cell by cell."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from clara.adapters_clara import adapter_state
from clara.modeling_clara import ClaraForRetrievalGeneration
from conftest import DOCUMENTS, ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture
def variables(monkeypatch, base, checkpoint, tmp_path):
    monkeypatch.setattr("clara.train.curves._draw", lambda *_: None)  # takes longer than training here
    values = {"BASE": base, "MODEL": checkpoint, "RUNS": str(tmp_path), "MAX_STEPS": "2"}
    for name, value in values.items():
        monkeypatch.setenv(f"CLARA_{name}", value)


@pytest.mark.slow
def test_a_script_for_each_stage(variables):
    names = [path.stem for path in EXAMPLES.glob("*.py")]
    assert sorted(names) == [
        "end_to_end",
        "hundred_rows",
        "instruction_tuning",
        "openai_client",
        "pretraining",
    ]
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


def test_a_hundred_rows_in_forty_lines(variables, checkpoint):
    script = EXAMPLES / "hundred_rows.py"
    final = runpy.run_path(str(script))["main"]()
    before, after = map(ClaraForRetrievalGeneration.from_pretrained, (checkpoint, final))
    assert before.memory_fingerprint() == after.memory_fingerprint()
    states = [adapter_state(model.decoder, "query_reasoner") for model in (before, after)]
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert len(script.read_text().splitlines()) <= 40


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
