"""`clara publish` as a user types it: to a Hub on the loopback, and dry; then loaded from there."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
from clara.commands.main import main
from clara.modeling_clara import ClaraForRetrievalGeneration
from conftest import DOCUMENTS, QUESTIONS, make_model
from hub_server import serve_hub
from huggingface_hub import ModelCard
from transformers import AutoModel, pipeline

TOKEN = "hf_" + "s" * 34
SETTINGS = {"max_new_tokens": 4, "retrieval_top_k": 2}
TRAINING = """---
base_model: smollm2-135m
datasets: [org/rows]
---

# my-run

Adapters after 2 of 4 optimizer steps.

## Training

| | |
|---|---|
| seed | 42 |

## Data

- /home/someone/rows/train.jsonl
"""


@pytest.fixture
def hub(monkeypatch):
    with serve_hub(monkeypatch, TOKEN) as hub:
        yield hub


@pytest.fixture
def unchecked(monkeypatch):
    """The check in a fresh process, which takes seconds, is left out: `published` has it."""
    monkeypatch.setattr("clara.hub.check.check_folder", lambda folder, model: {})


@pytest.fixture(scope="module")
def light(base, tmp_path_factory):
    """A checkpoint without its base, as a trainer leaves it."""
    folder = tmp_path_factory.mktemp("light") / "run"
    make_model(base).save_pretrained(folder, save_base=False)
    (folder / "README.md").write_text(TRAINING, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def published(light, tmp_path_factory):
    """What a dry run leaves in its output folder; it was checked in a fresh process."""
    output = tmp_path_factory.mktemp("published") / "model"
    words = [
        "publish",
        str(light),
        "--repo",
        "org/tiny",
        "--dry-run",
        "--output",
        str(output),
        "--widgets",
        "2",
    ]
    assert main(words) == 0
    return output


def test_a_dry_run_lists_the_files_and_sends_nothing(light, hub, capsys, unchecked):
    assert main(["publish", str(light), "--repo", "org/tiny", "--dry-run", "--widgets", "0"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^ +[\d,]+  model.safetensors$", shown, re.MULTILINE)
    assert "nothing was sent to org/tiny" in shown and not hub.requests


def test_the_folder_holds_what_the_hub_needs_and_no_more(published):
    names = {path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file()}
    code = {name for name in names if name.endswith("_clara.py")}
    rest = {
        "LICENSE", "README.md", "chat_template.jinja", "config.json", "generation_config.json",
        "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    adapters = {
        f"{name}/adapter_{kind}"
        for name in ("compressor", "query_reasoner", "generator")
        for kind in ("config.json", "model.safetensors")
    }
    assert names == code | rest | adapters
    assert {"modeling_clara.py", "pipeline_clara.py", "processing_clara.py"} <= code


def test_config_names_every_auto_class_the_pipeline_and_no_folder(published, base):
    config = json.loads((published / "config.json").read_text(encoding="utf-8"))
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor"}
    assert list(config["custom_pipelines"]) == ["retrieval-augmented-generation"]
    assert config["base_model_name_or_path"] is None
    for file in published.rglob("*.json"):
        assert str(Path(base).parent) not in file.read_text(encoding="utf-8")


def test_it_is_small(published):
    files = [path for path in published.rglob("*") if path.is_file()]
    assert len(files) <= 25 and len(list(published.glob("*.py"))) <= 10


def test_plain_text_generation_gives_the_base(published, base):
    write = pipeline("text-generation", model=str(published), trust_remote_code=True)
    plain = pipeline("text-generation", model=base)
    options = {"max_new_tokens": 4, "do_sample": False, "return_full_text": False}
    assert write("Who found Titan?", **options) == plain("Who found Titan?", **options)


def test_the_base_is_in_it_and_answers_are_the_checkpoints(published, light):
    source = ClaraForRetrievalGeneration.from_pretrained(light)
    model = AutoModel.from_pretrained(published, trust_remote_code=True)
    for question in QUESTIONS:
        assert model.generate(question, DOCUMENTS, **SETTINGS) == source.generate(
            question, DOCUMENTS, **SETTINGS
        )
    assert model.memory_fingerprint() == source.memory_fingerprint()


def test_the_card_holds_the_training_record_and_the_outputs_of_this_checkpoint(published, light):
    card = ModelCard.load(published / "README.md")
    source = ClaraForRetrievalGeneration.from_pretrained(light)
    assert card.data.datasets == ["org/rows"]
    assert "| my-run | – | – | – | – | 42 | – |" in card.text and "/home/" not in card.text
    assert len((published / "README.md").read_text().splitlines()) <= 150
    assert card.text.index("## Evaluation") < card.text.index("## How to use")
    assert "your-org/your-model" not in card.text and 'pipeline(model="org/tiny"' in card.text
    assert len(card.data.widget) == 2
    from clara.hub.examples import make_examples

    expected = [row["answer"] for row in make_examples(source, 2).shown]
    assert [row["output"]["text"] for row in card.data.widget] == expected
    assert all(row["example_title"].endswith("(wrong)") for row in card.data.widget)  # it is untrained
    assert card.data.eval_results is None and "Not measured." in card.text


def test_publishing_makes_one_commit_that_loads(light, hub, tmp_path, capsys, caplog, unchecked):
    with caplog.at_level(logging.DEBUG):
        assert main(["publish", str(light), "--repo", "org/tiny", "--private", "--widgets", "0"]) == 0
    repository = hub.repositories["models", "org/tiny"]
    assert repository.private and len(repository.commits) == 1
    shown = capsys.readouterr()
    assert f"Published: {hub.url}/org/tiny/commit/" in shown.out
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in caplog.text + shown.out + shown.err
    assert not [path for path in repository.files if TOKEN.encode() in repository.files[path]]
    source = ClaraForRetrievalGeneration.from_pretrained(light)
    model = AutoModel.from_pretrained("org/tiny", trust_remote_code=True, cache_dir=tmp_path)
    expected = source.generate(QUESTIONS, DOCUMENTS, **SETTINGS)
    assert model.generate(QUESTIONS, DOCUMENTS, **SETTINGS) == expected
    rag = pipeline(model="org/tiny", trust_remote_code=True, model_kwargs={"cache_dir": str(tmp_path)})
    assert rag(QUESTIONS[0], DOCUMENTS, **SETTINGS)["answer"] == expected[0]


def test_publishing_again_removes_what_is_no_longer_there_and_keeps_memories(light, hub, unchecked):
    words = ["publish", str(light), "--repo", "org/tiny", "--widgets", "0"]
    assert main(words) == 0
    files = hub.repositories["models", "org/tiny"].files
    kept = {"memories/notes/memory-0.safetensors": b"m", "notes.md": b"n"}
    stale = {"model-00001-of-00002.safetensors": b"s", "old_clara.py": b"o"}
    files.update({**kept, **stale})
    assert main(words) == 0
    assert set(kept) <= set(files) and not set(stale) & set(files)
    assert sorted(hub.repositories["models", "org/tiny"].commits[1][2]) == sorted(stale)


def test_a_public_repository_is_not_taken_for_a_private_one(light, hub, capsys, unchecked):
    words = ["publish", str(light), "--repo", "org/tiny", "--widgets", "0"]
    assert main(words) == 0
    assert main([*words, "--private"]) == 2
    assert "is there already and public: nothing was sent" in capsys.readouterr().err
    assert len(hub.repositories["models", "org/tiny"].commits) == 1


def test_a_hub_that_refuses_is_told_in_one_line_without_the_token(light, hub, capsys, unchecked):
    hub.refused = 403
    assert main(["publish", str(light), "--repo", "org/tiny", "--widgets", "0"]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("clara publish: ") and "403" in told and TOKEN not in told


@pytest.mark.parametrize(
    "repo", ["tiny", "a/b/c", "/etc/passwd", "../org/tiny", "org/", "org/..", "", "org/ti ny", "a--b/c"]
)
def test_what_is_no_repository_is_refused_before_anything_is_done(light, hub, capsys, repo):
    assert main(["publish", str(light), f"--repo={repo}"]) == 2
    assert "`--repo` must be ORG/NAME" in capsys.readouterr().err and not hub.requests


def test_a_path_is_not_taken_for_a_repository(light, hub, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "tiny").mkdir(parents=True)
    assert main(["publish", str(light), "--repo", "checkpoints/tiny"]) == 2
    assert "is a path on this machine" in capsys.readouterr().err and not hub.requests


def test_an_output_that_is_there_is_kept(light, tmp_path, capsys):
    (tmp_path / "own.txt").write_text("mine")
    assert main(["publish", str(light), "--repo", "org/tiny", "--dry-run", "--output", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


def test_a_plain_base_is_no_checkpoint(base, capsys):
    assert main(["publish", base, "--repo", "org/tiny", "--dry-run"]) == 2
    assert "a plain causal LM, not a CLaRa checkpoint" in capsys.readouterr().err


def test_a_damaged_checkpoint_leaves_no_output(light, tmp_path, capsys):
    broken = Path(shutil.copytree(light, tmp_path / "broken"))
    file = broken / "generator" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    words = ["publish", str(broken), "--repo", "org/tiny", "--dry-run", "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "damaged or cut short" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_reports_of_this_model_fill_the_card(light, tmp_path, capsys, unchecked):
    from clara.evaluation.language_models import ClaraModel

    model = ClaraForRetrievalGeneration.from_pretrained(light)
    interval = {"mean": 0.25, "low": 0.2, "high": 0.3, "questions": 40}
    metrics = {
        "exact_match": interval,
        "token_f1": interval,
        "cover_exact_match": interval,
        "recall@5": interval,
    }
    report = {
        "benchmark": "nq", "setting": "normal", "questions": 40, "documents": 400, "source": "nq.jsonl",
        "systems": {"clara": {"metrics": metrics, "tokens_read": 120.4}},
        "model": ClaraModel(model).fingerprint(),
    }  # fmt: skip
    file = tmp_path / "nq" / "report.json"
    file.parent.mkdir()
    file.write_text(json.dumps(report), encoding="utf-8")
    output = tmp_path / "out"
    words = [
        "publish",
        str(light),
        "--repo",
        "org/tiny",
        "--dry-run",
        "--widgets",
        "0",
        "--output",
        str(output),
    ]
    assert main([*words, "--results", str(tmp_path / "nq")]) == 0
    card = ModelCard.load(output / "README.md")
    assert "| Natural Questions | normal | 40 | clara | 25.0 [20.0, 30.0] |" in card.text
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "exact_match": 25.0,
        "token_f1": 25.0,
        "cover_exact_match": 25.0,
    }
    trained = shutil.copytree(light, tmp_path / "trained")
    shutil.copy(output / "README.md", trained)
    shutil.rmtree(output)
    plain = ["publish", str(trained), "--repo", "org/again", "--dry-run", "--widgets", "0"]
    assert main([*plain, "--output", str(output)]) == 0  # without --results they stay
    kept = ModelCard.load(output / "README.md")
    assert "| Natural Questions | normal | 40 | clara |" in kept.text and "| my-run |" in kept.text
    assert len(kept.data.eval_results) == 3 and kept.data.model_name == "again"
    shutil.rmtree(output)
    file.write_text(json.dumps({**report, "model": "0" * 64}), encoding="utf-8")
    assert main([*words, "--results", str(file)]) == 2
    assert "was measured on another model" in capsys.readouterr().err and not output.exists()


@pytest.mark.slow
def test_the_embedded_base_publishes_with_its_weights(tmp_path):
    model = ClaraForRetrievalGeneration.from_base("smollm2-135m", seed=1)
    model.save_pretrained(tmp_path / "run", save_base=False)
    words = ["publish", str(tmp_path / "run"), "--repo", "org/clara-smollm2", "--dry-run", "--widgets", "1"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card.data.base_model_relation == "finetune"
    assert "**State: untrained.**" in card.text and "in 4 bits (Q4_1)" in card.text
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 200_000_000
