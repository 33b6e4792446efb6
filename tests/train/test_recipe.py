"""Recipes: variables, options over them, and every recipe and launcher file of the house."""

from pathlib import Path

import pytest
import yaml
from clara.train.recipe import parse_arguments, read_recipe
from clara.train.stages import STAGES, get_stage
from conftest import ROOT

RECIPES = sorted((ROOT / "train" / "recipes").glob("*.yaml"))
LAUNCHERS = sorted((ROOT / "train" / "accelerate").glob("*.yaml"))
MINIMUM = "base: b\ntrain_files: [a.jsonl]\n"


def write(folder, text):
    file = folder / "recipe.yaml"
    file.write_text(text)
    return str(file)


def parse(folder, text, *options):
    return parse_arguments(
        ["--config", write(folder, text), "--output_dir", str(folder / "o"), "--use_cpu", *options]
    )


def test_variables_defaults_and_the_recipes_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CLARA_A", "one")
    monkeypatch.setenv("CLARA_N", "7")
    monkeypatch.delenv("CLARA_B", raising=False)
    text = """
    a: ${CLARA_A}/x/${CLARA_A}
    b: [ "${CLARA_B:-two}", "${CLARA_B:-}" ]
    c: {d: "${CLARA_N}", e: "${CLARA_B:-2.5}", f: "n${CLARA_N}"}
    g: ${RECIPE}/rows.jsonl
    h: 3
    """
    assert read_recipe(write(tmp_path, text)) == {
        "a": "one/x/one",
        "b": ["two", None],
        "c": {"d": 7, "e": 2.5, "f": "n7"},
        "g": f"{tmp_path}/rows.jsonl",
        "h": 3,
    }


def test_a_variable_that_is_not_set_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CLARA_B", raising=False)
    with pytest.raises(
        ValueError, match="recipe.yaml needs the environment variable CLARA_B: export CLARA_B="
    ):
        read_recipe(write(tmp_path, "a: ${CLARA_B}"))


@pytest.mark.parametrize("text", ["", "- a\n- b", "text"])
def test_a_recipe_is_a_mapping(tmp_path, text):
    with pytest.raises(ValueError, match="must hold a YAML mapping"):
        read_recipe(write(tmp_path, text))


def test_options_win_over_the_recipe(tmp_path):
    text = MINIMUM + "max_steps: 5\nlearning_rate: 1e-3\nsignals: {answer: 0.5}\nseed: 3\n"
    script, args = parse(
        tmp_path, text, "--max_steps", "9", "--signals", '{"paraphrase": 1.0}', "--base", "c"
    )
    assert (args.max_steps, args.learning_rate, args.seed) == (9, 1e-3, 3)
    assert args.signals == {"paraphrase": 1.0} and script.base == "c"
    assert script.train_files == ["a.jsonl"]
    _, args = parse(tmp_path, text)
    assert args.max_steps == 5


def test_options_alone(tmp_path):
    script, args = parse_arguments(
        [
            "--base",
            "b",
            "--train_files",
            "a",
            "c",
            "--output_dir",
            str(tmp_path),
            "--use_cpu",
            "--stage",
            "end_to_end",
        ]
    )
    assert script.train_files == ["a", "c"] and args.learning_rate == 5e-6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMUM + "learning_rat: 1\n", r"unknown fields \['learning_rat'\]"),
        (MINIMUM + "model: m\n", "Set `model` or `base`, and only one: got 'm' and 'b'"),
        ("train_files: [a]\n", "Set `model` or `base`, and only one: got None and None"),
        ("base: b\n", "`train_files` is empty"),
        (MINIMUM + "model_fields: 3\n", "`model_fields` must be a mapping"),
        (MINIMUM + "stage: sft\n", "`stage` must be one of"),
    ],
)
def test_bad_recipes_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parse(tmp_path, text)


def test_an_unknown_option_is_refused(tmp_path, capsys):
    with pytest.raises((SystemExit, ValueError)):
        parse(tmp_path, MINIMUM, "--max_step", "3")


@pytest.fixture
def variables(monkeypatch):
    for name in ("CLARA_DATA", "CLARA_RUNS"):
        monkeypatch.setenv(name, f"/{name.lower()}")
    for name in ("CLARA_BASE", "CLARA_RATE", "CLARA_START", "CLARA_MINUTES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses_and_holds_no_machines_path(variables, recipe, tmp_path):
    script, args = parse_arguments(["--config", str(recipe), "--output_dir", str(tmp_path), "--use_cpu"])
    assert args.stage in STAGES
    assert recipe.stem == "tiny" or recipe.stem.removesuffix("-1gpu").endswith(args.stage)
    assert (script.model is None) == (args.stage == "pretraining")
    stated = yaml.safe_load(recipe.read_text())
    assert not any(
        str(value).startswith(("/", "~")) for value in [*stated.values(), *stated.get("train_files", [])]
    )
    assert str(stated["output_dir"]).startswith("${CLARA_RUNS")


@pytest.mark.parametrize(
    "recipe", [r for r in RECIPES if r.stem.startswith(("mistral", "phi"))], ids=lambda p: p.stem
)
def test_recipes_of_the_paper_hold_its_numbers(variables, recipe, tmp_path):
    script, args = parse_arguments(["--config", str(recipe), "--output_dir", str(tmp_path), "--use_cpu"])
    stage = get_stage(args.stage)
    devices = 1 if recipe.stem.endswith("-1gpu") else 8
    assert devices * args.per_device_train_batch_size * args.gradient_accumulation_steps == stage.batch_size
    assert script.load_in_4bit == (devices == 1)
    assert args.learning_rate == stage.learning_rate and args.alignment_weight == stage.alignment_weight
    assert (args.lr_scheduler_type, args.warmup_steps, args.max_grad_norm) == ("cosine", 0.03, 1.0)
    assert args.num_train_epochs == 1 and args.activation_checkpointing and args.bf16
    if script.model_fields:
        assert script.model_fields == {
            "compression_rate": 16,
            "doc_max_length": 256,
            "lora_r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.1,
            "lora_target_modules": "all-linear",
        }


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda path: path.stem)
def test_launcher_files_are_accelerates(launcher):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(launcher))
    assert config.num_processes == 8
    kind = {"fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED", "multi_gpu": "MULTI_GPU"}[
        launcher.stem
    ]
    assert config.distributed_type == kind
    options = {**config.fsdp_config, **config.deepspeed_config}
    if launcher.stem == "fsdp2":
        assert options["fsdp_version"] == 2 and not options["fsdp_activation_checkpointing"]
    if kind == "DEEPSPEED":
        assert options["zero_stage"] == int(launcher.stem[-1])


def test_the_tiny_recipes_rows_lie_beside_it(variables):
    recipe = read_recipe(str(ROOT / "train" / "recipes" / "tiny.yaml"))
    assert all(Path(file).is_file() for file in [*recipe["train_files"], *recipe["eval_files"]])
