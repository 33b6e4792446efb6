"""Mistakes in a training command are told at once, before anything heavy is imported."""

import re
import subprocess
import sys
import time

import pytest
from clara.train.foresight import foresee, known_fields, next_command
from clara.train.recipe import parse_arguments
from conftest import ROOT

ROWS = str(ROOT / "train" / "recipes" / "tiny_pretraining.jsonl")
TINY = str(ROOT / "train" / "recipes" / "tiny.yaml")
START = ["--base", "b", "--train_files", ROWS]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*START, "--learning_rat", "1"],
         "no option `--learning_rat`: unknown, did you mean `--learning_rate"),
        ([*START, "--zzz", "1"], "`--zzz`: unknown, see `clara train --help`"),
        ([*START, "--max_steps", "many"], r"`max_steps` must be a number \(int\), got 'many'"),
        ([*START, "--learning_rate", "fast"], r"`learning_rate` must be a number \(float\), got 'fast'"),
        (["--base", "b", "--train_files", "not/there.jsonl"], "`train_files`: not/there.jsonl is not there"),
        (["--base", "b"], "`train_files` is empty"),
        (["--train_files", ROWS], "Set `model` or `base`, and only one"),
        ([*START, "--model", "m"], "Set `model` or `base`, and only one"),
        (["--model", "./nothing", "--train_files", ROWS], "`model`: ./nothing holds no checkpoint"),
        (["--model", "runs/a/final", "--train_files", ROWS],
         "`model`: runs/a/final holds no checkpoint .*train the stage before it first"),
        (["--config", "no.yaml"], "`--config` no.yaml is not there"),
        (["4"], "'4' belongs to no option"),
    ],
)  # fmt: skip
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        foresee(options)


def test_a_recipes_field_is_checked_and_options_win(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"base: b\ntrain_files: [{ROWS}]\nmax_steps: 3\nseed: 1\n")
    options = ["--max_steps=7", "--no_bucket_by_length", "--compression_rates", "16", "32"]
    found = foresee(["--config", str(recipe), *options])
    assert found["max_steps"] == "7" and found["seed"] == 1 and found["compression_rates"] == ["16", "32"]
    recipe.write_text(f"base: b\ntrain_files: [{ROWS}]\nmax_step: 3\n")
    with pytest.raises(ValueError, match="has the field `max_step`: unknown, did you mean `max_steps`"):
        foresee(["--config", str(recipe)])


def test_an_option_names_another_start_than_the_recipe(tmp_path):
    """So that a later stage can be planned, or tried, before the stage before it has run."""
    recipe = tmp_path / "recipe.yaml"
    for field, other in (("model: runs/a/final", "base"), ("base: b", "model")):
        recipe.write_text(f"{field}\ntrain_files: [{ROWS}]\n")
        for options in ([f"--{other}", "x/y"], [f"--{other}=x/y"]):
            found = foresee(["--config", str(recipe), *options])
            script, _ = parse_arguments(
                ["--config", str(recipe), *options, "--output_dir", "out", "--use_cpu", "True"]
            )
            assert (found.get("base"), found.get("model")) == (script.base, script.model)
            assert getattr(script, other) == "x/y"


def test_known_fields_are_those_of_the_parser():
    from clara.train.recipe import ClaraTrainingConfig, HfArgumentParser, ScriptArguments

    parser = HfArgumentParser((ScriptArguments, ClaraTrainingConfig))
    actions = {action.dest for action in parser._actions} - {"help"}
    assert actions <= set(known_fields()) | {name.removeprefix("no_") for name in actions}
    assert set(known_fields()) <= actions | {"model_fields"}


def test_every_recipe_of_the_house_is_foreseen(monkeypatch):
    monkeypatch.setenv("CLARA_DATA", str(ROOT / "train" / "recipes"))
    for recipe in sorted((ROOT / "train" / "recipes").glob("*.yaml")):
        try:
            foresee(["--config", str(recipe)])
        except ValueError as error:
            assert re.search("is not there|holds no checkpoint|needs the environment", str(error)), error


def test_the_command_tells_within_two_seconds_and_helps_in_eighty_lines():
    code = "import sys; from clara.commands.main import main; sys.exit(main(sys.argv[1:]))"
    clara = [sys.executable, "-c", code, "train"]
    start = time.process_time()
    told = subprocess.run(
        [*clara, "pretraining", *START, "--max_stepps", "1"], capture_output=True, text=True
    )
    assert told.returncode == 2 and "did you mean `--max_steps`" in told.stderr
    assert time.process_time() - start < 2 and len(told.stderr.splitlines()) == 1
    code = "import sys, clara.commands.train, clara.train.foresight; print({'torch'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
    assert loaded == "set()"
    for words in (["--help"], ["end_to_end", "--help"]):
        text = subprocess.run([*clara, *words], capture_output=True, text=True).stdout
        assert len(text.splitlines()) <= 80 and "--help-all" in text and "--train_files" in text


def test_every_option_of_the_help_exists():
    from clara.commands.train import HELP

    options = set(re.findall(r"--(\w+)", HELP))
    assert options - {"plan", "help"} - {"config"} <= set(known_fields())


def test_the_next_command():
    recipes = ROOT / "train" / "recipes"
    first = str(recipes / "mistral-7b-pretraining-1gpu.yaml")
    following = f"--config {recipes}/mistral-7b-instruction_tuning-1gpu.yaml --model out/final"
    found = next_command("pretraining", {}, first, "out/final")
    assert found == f"clara train instruction_tuning {following}"
    found = next_command("instruction_tuning", {}, None, "out/final")
    assert found.startswith("clara train end_to_end --model out/final")
    assert "build-memory" in next_command("end_to_end", {}, first, "out/final")
