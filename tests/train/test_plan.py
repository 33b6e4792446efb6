"""The planner: its counts are torch's, its peak that of the allocator."""

import json

import pytest
import torch
from clara.commands.main import main as clara
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.train.plan import (
    SHAPES,
    USABLE,
    Load,
    base_config,
    memory_parts,
    planned_load,
    planned_model,
    step_tokens,
)
from clara.train.recipe import ScriptArguments, parse_arguments
from clara.train.stages import STAGES
from conftest import ROOT, make_model, make_tokenizer, save_base
from torch.profiler import ProfilerActivity, profile
from training_helpers import PRETRAINING, make_args, make_trainer
from transformers import LlamaConfig, LlamaForCausalLM

ROWS = str(ROOT / "train" / "recipes" / "tiny_pretraining.jsonl")
MILLIONS = {
    "mistralai/Mistral-7B-Instruct-v0.2": 7241.7,
    "microsoft/Phi-4-mini-instruct": 3836.0,
    "meta-llama/Meta-Llama-3-70B-Instruct": 70553.7,
}


def script(base, **fields):
    return ScriptArguments(base=base, train_files=[ROWS], dtype="bfloat16", **fields)


@pytest.mark.slow
@pytest.mark.parametrize("base", SHAPES)
def test_parameters_are_those_of_the_published_models(base):
    model = planned_model(script(base), make_args("plan"))
    count = sum(p.numel() for n, p in model.decoder.named_parameters() if ".lora_" not in n)
    assert count / 1e6 == pytest.approx(MILLIONS[base], rel=1e-3)
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.slow
def test_a_4_bit_base_is_a_quarter_and_adapters_stay():
    base = "mistralai/Mistral-7B-Instruct-v0.2"
    load = Load(2, 256, 0, 2, 256, 64)
    plain, small = (
        memory_parts(planned_model(script(base), make_args("plan", activation_checkpointing=True)), load, how)
        for how in (script(base), script(base, load_in_4bit=True))
    )
    assert plain["base"] == pytest.approx(14.48e9, rel=0.01) and small["base"] < 4.7e9
    assert small["adapters"] == plain["adapters"] and small["optimizer"] == plain["optimizer"]
    assert small["activations"] < 2e9


def allocated_peak(step):
    """Most bytes that torch's allocator held at once during a call, above what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    live = peak = 0
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_is_that_of_the_allocator(tmp_path, checkpointing):
    config = LlamaConfig(
        vocab_size=1024, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    fields = {"doc_max_length": 128, "lora_r": 4, "lora_alpha": 8}
    model = ClaraForRetrievalGeneration.from_base(str(tmp_path / "base"), **fields)
    rows = [PRETRAINING[0]] * 8
    trainer = make_trainer(model, tmp_path / "run", rows=rows, activation_checkpointing=checkpointing,
                           signals={"paraphrase": 1.0})  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[0] for _ in range(8)])
    trainer.model.train()
    if checkpointing:
        trainer.model.activation_checkpointing_enable()
    trainer.compute_loss(trainer.model, dict(batch)).backward()  # lazy buffers are there now
    trainer.model.zero_grad(set_to_none=True)
    measured = allocated_peak(lambda: trainer.compute_loss(trainer.model, dict(batch)).backward())
    load = Load(
        *batch["document_input_ids"].shape, 0, *batch["input_ids"].shape, int((batch["labels"] != -100).sum())
    )
    parts = memory_parts(trainer.model, load)
    planned = parts["activations"] + parts["logits"] + parts["gradients"]
    assert planned == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_counts_once_also_after_the_rehearsal(tmp_path, tied):
    model = make_model(save_base(tmp_path, tied=tied))
    own = sum(p.nbytes for name, p in model.decoder.named_parameters() if ".lora_" not in name)
    tables = 2 - tied
    assert own > tables * model.get_input_embeddings().weight.nbytes
    for _ in range(2):
        assert memory_parts(model, Load(1, 8, 0, 1, 16, 4))["base"] == own
    tables = [model.get_input_embeddings().weight, model.decoder.get_output_embeddings().weight]
    assert (tables[0] is tables[1]) is tied


def test_the_longest_micro_batch_of_each_stage(shared_model):
    config = shared_model.config
    pretraining = planned_load(make_args("p", signals={"answer": 1.0}, max_answers=2), config)
    assert (pretraining.documents, pretraining.prompts, pretraining.labels) == (4, 8, 8 * 192)
    instruction = planned_load(make_args("p", "instruction_tuning"), config)
    assert (instruction.documents, instruction.prompts) == (8, 4)
    end = planned_load(make_args("p", "end_to_end"), config)
    assert (end.documents, end.queries, end.prompts) == (0, 4, 4)
    assert step_tokens(Load(2, 10, 1, 3, 20, 5)) == 2 * 10 + 32 + 3 * 20


def test_an_unknown_base_is_named():
    with pytest.raises(OSError):
        base_config("nobody/nothing")


def test_the_command_plans_and_loads_nothing(base, tmp_path, capsys):
    fields = json.dumps({"doc_max_length": 64, "lora_r": 4})
    words = ["train", "pretraining", "--base", base, "--train_files", ROWS, "--model_fields", fields]
    assert clara([*words, "--output_dir", str(tmp_path / "run"), "--plan"]) == 0
    told = capsys.readouterr().out
    for part in (
        "parameters",
        "optimizer",
        "activations",
        "logits",
        "total",
        " rows at the longest",
        "H100",
        "$/h",
    ):
        assert part in told
    assert not (tmp_path / "run").exists() and "it fits nowhere" not in told
    assert torch.get_default_dtype() == torch.float32
    assert clara([*words, "--per_device_train_batch_size", "1000000", "--plan"]) == 0
    assert "it fits nowhere: set `activation_checkpointing`" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretraining", "instruction_tuning", "end_to_end"])
@pytest.mark.parametrize(("gigabytes", "batch"), [(24, (1, 1, 2)), (80, (8, 4, 8))])
def test_recipes_of_one_gpu_fit_as_they_say(monkeypatch, tmp_path, stage, gigabytes, batch):
    rows = batch[list(STAGES).index(stage)]
    variables = {"CLARA_DATA": ROWS, "CLARA_BATCH": rows, "CLARA_STEPS": STAGES[stage].batch_size // rows}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    recipe = ROOT / "train" / "recipes" / f"mistral-7b-{stage}-1gpu.yaml"
    plain, args = parse_arguments(
        ["--config", str(recipe), "--output_dir", str(tmp_path), "--use_cpu", "True"]
    )
    plain.model, plain.base = None, "mistralai/Mistral-7B-Instruct-v0.2"
    model = planned_model(plain, args)
    parts = memory_parts(model, planned_load(args, model.config), plain)
    assert plain.load_in_4bit and sum(parts.values()) < USABLE * gigabytes * 1e9
