"""model_card.md: its Python blocks run in order on a published folder, and it says no more than is so."""

import re
import shutil

import pytest
from clara.commands.models import SHIPPED
from clara.hub.card import PLACEHOLDER, SECTIONS
from clara.hub.folder import TEMPLATE, write_model
from huggingface_hub import ModelCard

FENCE = re.compile(r"^```python\n(.*?)^```\s*$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def text():
    return TEMPLATE.read_text(encoding="utf-8")


def run_blocks(text, folder, capsys):
    namespace = {"__name__": "__main__"}
    printed = []
    for match in FENCE.finditer(text):
        line = text[: match.start(1)].count("\n")
        code = match[1].replace(PLACEHOLDER, str(folder))
        exec(compile("\n" * line + code, str(TEMPLATE), "exec"), namespace)
        printed.append(capsys.readouterr().out.strip().splitlines())
    return printed


def test_its_blocks_run_on_a_published_folder(text, shared_model, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "published"
    folder.mkdir()
    write_model(shared_model, folder)
    monkeypatch.chdir(tmp_path)
    auto, kept = run_blocks(text, folder, capsys)
    assert auto[0] and kept[0] in ("['forth']", "['titan']") and kept[1].startswith("[{'answer'")
    assert (tmp_path / "my_memory" / "memory.json").exists()
    shutil.rmtree(folder)


def test_the_head_is_complete(text):
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "text-generation",
        "apache-2.0",
    )
    assert data.language == ["en"] and "custom_code" in data.tags


def test_every_section_can_be_filled_and_every_subject_is_there(text):
    for name in SECTIONS:
        assert text.count(f"<!-- begin: {name} -->") == text.count(f"<!-- end: {name} -->") == 1
    headings = re.findall(r"^##+ (.+)$", text, re.MULTILINE)
    assert headings[0] == "Evaluation" and len(text.splitlines()) <= 110
    assert {"How to use", "Model", "Intended use and limits", "Training", "Citation"} <= set(headings)


def test_the_template_claims_nothing(text):
    assert "**State: untrained.**" in text and "Not measured." in text
    data = ModelCard(text).data
    assert data.eval_results is None and not hasattr(data, "widget") and data.datasets is None


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="no checkpoint is shipped")
def test_the_shipped_checkpoint_has_its_card():
    text = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert "**State: trained**" in text and len(text.splitlines()) <= 150
