"""The Space's folder: complete, with the model's variable and settings; it runs where nothing else lies."""

import json
import subprocess
import sys

import pytest
import yaml
from clara.commands.main import main
from clara.train.publishing.space import MODEL_VARIABLE, gradio_version, write_space
from conftest import ROOT
from hub_server import serve_hub

# What a Space does in its container: its own files, no package `clara`, the model that the variable names.
RUN = """
import json, sys
sys.modules["clara"] = None
import app
page = app.Page(*app.load_model())
app.build(page)
*_, last = page.take_sample()
print(json.dumps({"trained": page.trained, "passages": len(last[0]), "code": type(page.model).__module__}))
"""


@pytest.fixture
def hub(monkeypatch):
    with serve_hub(monkeypatch, "hf_x") as hub:
        yield hub


def test_the_folder_holds_the_page_its_corpus_and_settings(tmp_path):
    write_space(tmp_path, "org/tiny")
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    copied = {"app.py", "page_clara.py", "visit_clara.py", "data/samples/corpus.jsonl", "LICENSE"}
    assert names == copied | {"README.md", "requirements.txt"}
    assert all((tmp_path / name).read_bytes() == (ROOT / name).read_bytes() for name in copied)
    _, head, text = (tmp_path / "README.md").read_text().split("---\n", 2)
    settings = yaml.safe_load(head)
    assert settings["sdk"] == "gradio" and settings["app_file"] == "app.py"
    assert settings["models"] == ["org/tiny"] and "https://huggingface.co/org/tiny" in text
    assert len(settings["short_description"]) <= 60  # the Hub's limit
    assert (ROOT / "app.py").read_text().count(f'"{MODEL_VARIABLE}"') == 1


def test_requirements_are_those_of_the_page_and_of_the_models_code(tmp_path):
    write_space(tmp_path, "org/tiny")
    lines = (tmp_path / "requirements.txt").read_text().splitlines()
    named = {line.split("<")[0].split(">")[0] for line in lines}
    assert {"gradio", "torch", "transformers", "peft", "safetensors", "pyarrow"} <= named
    assert not any(";" in line for line in lines) and "pytest" not in named


def test_the_settings_name_a_whole_version_of_the_allowed_gradio(monkeypatch):
    monkeypatch.setattr(
        "clara.train.publishing.space.requires", lambda name: ["gradio<7,>=6.31; extra == 'app'"]
    )
    assert gradio_version() == "6.31.0"


@pytest.mark.slow
def test_it_runs_alone_on_the_model_that_the_variable_names(tmp_path, checkpoint, monkeypatch):
    pytest.importorskip("gradio")
    write_space(tmp_path, "org/tiny")
    monkeypatch.setenv(MODEL_VARIABLE, checkpoint)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["trained"] and told["passages"] >= 100 and told["code"].startswith("transformers_modules.")


def test_only_the_space_is_published_without_a_checkpoint(hub, capsys):
    words = ["publish", "--repo", "org/tiny", "--space", "org/tiny-demo"]
    assert main(words) == 0
    space = hub.repositories["spaces", "org/tiny-demo"]
    assert list(hub.repositories) == [("spaces", "org/tiny-demo")] and len(space.commits) == 1
    assert {"app.py", "page_clara.py", "visit_clara.py", "README.md", "requirements.txt"} <= set(space.files)
    assert space.variables == {"CLARA_MODEL": "org/tiny"}
    assert "Published: " in capsys.readouterr().out
    assert main([*words, "--private"]) == 2
    assert "is there already and public: nothing was sent" in capsys.readouterr().err
    assert len(space.commits) == 1


def test_a_dry_run_keeps_the_folder_and_sends_nothing(hub, tmp_path, capsys):
    words = ["publish", "--repo", "org/tiny", "--space", "org/demo", "--output", str(tmp_path / "out")]
    assert main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "Nothing was sent to org/demo (--dry-run)." in shown and "  app.py" in shown and not hub.requests
    assert (tmp_path / "out-space" / "app.py").is_file() and not (tmp_path / "out").exists()
    assert main([*words, "--dry-run"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_there_must_be_something_to_publish_and_a_name_for_it(hub, capsys):
    assert main(["publish", "--repo", "org/tiny"]) == 2
    assert "`CHECKPOINT` is missing" in capsys.readouterr().err
    assert main(["publish", "--repo", "org/tiny", "--space", "../demo"]) == 2
    assert "`--space` must be ORG/NAME, got '../demo'" in capsys.readouterr().err and not hub.requests
