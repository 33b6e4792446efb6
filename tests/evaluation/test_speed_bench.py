"""`clara bench` as a user types it, on tiny models; presets with random weights."""

import argparse
import json

import pytest
import torch
from clara.commands import bench
from clara.commands.main import main
from clara.evaluation.speed import workload
from clara.evaluation.speed.workload import PRESETS, random_model
from conftest import text_config
from speed_helpers import TINY


@pytest.fixture
def tiny(monkeypatch):
    """Little work."""
    monkeypatch.setattr(workload, "sizes_for", lambda device: TINY)


def parse(*words):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.slow
def test_measures_everything_and_writes_it(tiny, checkpoint, tmp_path, capsys):
    words = [
        "bench",
        "all",
        "--model",
        checkpoint,
        "--device",
        "cpu",
        "--output",
        str(tmp_path),
        "--repeats",
        "1",
    ]
    assert main(words) == 0
    page = (tmp_path / "bench.md").read_text()
    assert page.startswith("# Speed\n") and f"model {checkpoint}" in page
    printed = capsys.readouterr().out
    document = json.loads((tmp_path / "bench.json").read_text())
    names = [section["name"] for section in document["sections"]]
    assert names == [
        "compression",
        "latency",
        "generation",
        "search",
        "end_to_end",
        "signals",
        "buckets",
        "logits",
    ]
    assert all(section["title"] in page and section["title"] in printed for section in document["sections"])
    assert document["environment"]["dtype"] == "float32" and document["environment"]["repeats"] == 1


def test_one_benchmark_in_another_dtype(tiny, checkpoint, capsys):
    words = [
        "bench",
        "search",
        "--model",
        checkpoint,
        "--device",
        "cpu",
        "--dtype",
        "bfloat16",
        "--attn-implementation",
        "eager",
        "--repeats",
        "1",
    ]
    assert main(words) == 0
    assert "dtype bfloat16 · attention eager" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repeats", "0"], "`--repeats` must be at least 1, got 0"),
        (["--preset", "mistral-7b"], "`--preset mistral-7b` has no weights here"),
        (["--model", "x", "--random-weights"], "`--model` names a model of its own"),
        (["--corpus", "c.jsonl"], "give all three or none"),
    ],
)
def test_refuses_arguments_that_do_not_go_together(words, message):
    with pytest.raises(ValueError, match=message):
        bench.check(parse(*words))


def test_names_the_model_for_the_report():
    assert bench.model_name(parse("--model", "x")) == "x"
    assert (
        bench.model_name(parse("--preset", "mistral-7b", "--random-weights")) == "mistral-7b, random weights"
    )
    assert bench.model_name(parse("--random-weights")) == "smollm2-135m, random weights"


def test_command_and_library_know_the_same_presets():
    assert tuple(PRESETS) == bench.PRESETS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_preset_with_random_weights_answers(tokenizer, dtype):
    shape = text_config("mistral")
    model = random_model("mistral-7b", "cpu", dtype, shape, tokenizer, doc_max_length=64, lora_r=4)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model.decoder.config.model_type == "mistral" and not model.training
    memory = model.build_memory(["one text", "another text"], show_progress=False)
    out = model.generate("what?", memory, max_new_tokens=5, min_new_tokens=5, return_dict_in_generate=True)
    assert out.sequences.shape == (1, 5)


def test_runs_a_preset_through_the_command(tiny, tokenizer, monkeypatch, capsys):
    def small(preset, device, **options):
        return random_model(
            preset, device, torch.float32, text_config("mistral"), tokenizer, doc_max_length=64
        )

    monkeypatch.setattr(workload, "random_model", small)
    words = [
        "bench",
        "compression",
        "--preset",
        "mistral-7b",
        "--random-weights",
        "--device",
        "cpu",
        "--repeats",
        "1",
    ]
    assert main(words) == 0
    assert "model mistral-7b, random weights" in capsys.readouterr().out


def test_the_large_preset_has_seven_billion_weights():
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(PRESETS["mistral-7b"](32_000))
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_241_732_096


@pytest.mark.slow
def test_a_cold_start_is_timed_beside_its_imports(tiny, checkpoint, tmp_path):
    assert main(["bench", "start", "--model", checkpoint, "--output", str(tmp_path), "--repeats", "1"]) == 0
    (found,) = json.loads((tmp_path / "bench.json").read_text())["sections"]
    asked, libraries, kept = (row["median_seconds"] for row in found["variants"])
    assert asked > kept > 0 and libraries > 0
    assert [row["median"] for row in found["ratios"]] == pytest.approx([asked / libraries, asked / kept])


def test_a_cold_start_is_that_of_a_model_with_a_name(capsys):
    assert main(["bench", "start", "--random-weights"]) == 2
    assert "leave `--random-weights` and `--dtype` out" in capsys.readouterr().err
