"""The Space's folder: complete, with the model's variable and settings; its app.py runs."""

import subprocess
import sys

import clara
import pytest
import yaml
from clara.commands.main import main
from clara.hub.folder import MODEL_VARIABLE, gradio_version, write_space
from clara.hub.space import visit
from conftest import DOCUMENTS, make_model, save_base
from hub_server import serve_hub

# What a Space does in its container, but for the serving.
RUN = """
import runpy
import clara.hub.space.app as page
page.launch = lambda blocks: print("built", type(blocks).__name__)
found = runpy.run_path("app.py")
print(type(found["model"]).__module__)
"""


@pytest.fixture
def hub(monkeypatch):
    with serve_hub(monkeypatch, "hf_x") as hub:
        yield hub


def test_the_folder_holds_the_page_and_settings(tmp_path):
    write_space(tmp_path, "org/tiny")
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"app.py", "LICENSE", "README.md", "requirements.txt"}
    _, head, text = (tmp_path / "README.md").read_text().split("---\n", 2)
    settings = yaml.safe_load(head)
    assert settings["sdk"] == "gradio" and settings["app_file"] == "app.py"
    assert settings["models"] == ["org/tiny"] and "https://huggingface.co/org/tiny" in text
    assert len(settings["short_description"]) <= 60  # the Hub's limit
    assert f'os.environ["{MODEL_VARIABLE}"]' in (tmp_path / "app.py").read_text()
    assert 'made=Path(__file__).with_name("sample")' in (tmp_path / "app.py").read_text()
    assert (tmp_path / "requirements.txt").read_text() == f"clara-rag[app,documents]=={clara.__version__}\n"


def test_the_sample_comes_compressed_where_the_model_is_at_hand(tmp_path, shared_model, monkeypatch):
    rows = [{"id": str(number), "text": text} for number, text in enumerate(DOCUMENTS)]
    monkeypatch.setattr("clara.hub.folder.sample_documents", lambda: rows)
    write_space(tmp_path / "space", "org/tiny", shared_model)
    kept = shared_model.load_memory(str(tmp_path / "space" / "sample"))
    assert kept.dtype == "int8" and kept.texts == DOCUMENTS
    monkeypatch.setattr(visit, "sample_documents", lambda: 1 / 0)
    made = tmp_path / "space" / "sample"
    assert visit.sample_memory(shared_model, tmp_path / "cache", made).texts == DOCUMENTS
    assert not (tmp_path / "cache").exists()
    other = make_model(save_base(tmp_path / "base", seed=5))
    monkeypatch.setattr(visit, "sample_documents", lambda: rows[:2])
    assert len(visit.sample_memory(other, tmp_path / "cache", made)) == 2


def test_the_settings_name_a_whole_version_of_the_allowed_gradio(monkeypatch):
    monkeypatch.setattr("clara.hub.folder.requires", lambda name: ["gradio<7,>=6.31; extra == 'app'"])
    assert gradio_version() == "6.31.0"


@pytest.mark.slow
def test_it_shows_the_model_that_the_variable_names(tmp_path, checkpoint, monkeypatch):
    pytest.importorskip("gradio")
    write_space(tmp_path, "org/tiny")
    monkeypatch.setenv(MODEL_VARIABLE, checkpoint)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    built, module = done.stdout.splitlines()[-2:]
    assert built == "built Blocks" and module.startswith("transformers_modules.")


def test_only_the_space_is_published_without_a_checkpoint(hub, capsys):
    words = ["publish", "--repo", "org/tiny", "--space", "org/tiny-demo"]
    assert main(words) == 0
    space = hub.repositories["spaces", "org/tiny-demo"]
    assert list(hub.repositories) == [("spaces", "org/tiny-demo")] and len(space.commits) == 1
    assert {"app.py", "README.md", "requirements.txt"} <= set(space.files)
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
