"""The fine-tuned text baseline: prompts and labels, training, going on, and its place in the evaluation."""

import argparse
import json
import random
import shutil

import pytest
import torch
from clara.commands import train
from clara.data.collation import InstructionCollator, Item
from clara.data.records import QuestionRecord
from clara.data.rows import question_row
from clara.data.text_prompts import text_prompt_ids
from clara.train.recipe import ScriptArguments
from clara.train.text_baseline import TextCollator, check_lengths, config_of, make_trainer, run
from conftest import DOCUMENTS, make_tokenizer
from safetensors.torch import load_file
from training_helpers import QUESTION_ROWS, make_args
from transformers import AutoModelForCausalLM

LORA = {"lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0}


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(question_row(row)) + "\n" for row in QUESTION_ROWS))
    return str(path)


def script(base, rows, **kwargs):
    return ScriptArguments(**{"base": base, "model_fields": LORA, "train_files": [rows], **kwargs})


def test_prompt_answer_and_labels():
    tokenizer = make_tokenizer()
    collate = TextCollator(tokenizer, documents_per_question=2, seed=5)
    items = [Item(index, 0, row) for index, row in enumerate(QUESTION_ROWS[:3])]
    batch = collate(items)
    assert (
        batch.pop("logits_to_keep")
        == batch["labels"].shape[1]
        == 1 + max(len(collate.encode(item)[1]) for item in items)
    )
    for item, ids, mask, labels in zip(items, *batch.values(), strict=True):
        draw = random.Random(f"5-0-{item.index}")
        shown = InstructionCollator(None, 2).documents(item.record, draw)
        prompt = text_prompt_ids(tokenizer, item.record.question, shown)
        answer = [*tokenizer(item.record.target)["input_ids"], tokenizer.eos_token_id]
        assert ids[mask.bool()].tolist() == prompt + answer
        assert labels[labels != -100].tolist() == labels[-len(answer) :].tolist() == answer
        assert mask.tolist() == sorted(mask.tolist())


def test_long_documents_are_cut_and_long_prompts_refused():
    tokenizer = make_tokenizer()
    record = QuestionRecord("who", ("Ada",), (" ".join(DOCUMENTS),), (0,))
    short, _ = TextCollator(tokenizer, doc_max_length=20).encode(Item(0, 0, record))
    whole, _ = TextCollator(tokenizer, doc_max_length=10_000).encode(Item(0, 0, record))
    assert len(short) < len(whole) - 50
    with pytest.raises(ValueError, match="lower `documents_per_question`"):
        TextCollator(tokenizer, doc_max_length=10_000, prompt_limit=50)([Item(0, 0, record)])


def test_the_loss_is_that_of_the_answers_alone(base, rows, tmp_path):
    trainer = make_trainer(script(base, rows), make_args(tmp_path, "instruction_tuning"))
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(3)])
    model = trainer.model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(model, batch)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"][:, 1:]
    expected = torch.nn.functional.cross_entropy(
        logits[:, -labels.shape[1] - 1 : -1].flatten(0, 1), labels.flatten()
    )
    assert abs(float(loss) - float(expected)) < 1e-4


def test_trains_only_lora_and_loads_as_a_text_model(base, rows, tmp_path):
    args = make_args(tmp_path / "run", "instruction_tuning", max_steps=3)
    trainer = run(script(base, rows), args)
    assert all("lora_" in n for n, p in trainer.model.named_parameters() if p.requires_grad)
    tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "final")
    plain = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert not torch.allclose(tuned(ids).logits, plain(ids).logits)
        mine = trainer.model.eval()(ids).logits
    torch.testing.assert_close(tuned(ids).logits.detach(), mine)


def test_takes_base_and_lora_fields_of_a_checkpoint(checkpoint, shared_model, rows):
    found = config_of(script(None, rows, model=checkpoint, model_fields=None))
    assert found.base_model_name_or_path == shared_model.config.base_model_name_or_path
    assert (found.lora_r, found.doc_max_length) == (4, 64)


def test_ranks_are_those_of_the_recipe_layer_by_layer(base, rows, tmp_path):
    made = script(base, rows)
    made.model_fields = {**LORA, "lora_rank_pattern": {"q_proj": 2}, "lora_alpha_pattern": {"v_proj": 16}}
    model = make_trainer(made, make_args(tmp_path, "instruction_tuning")).model
    ranks = {(n.split(".")[-4], len(p)) for n, p in model.named_parameters() if "lora_A" in n}
    assert ("q_proj", 2) in ranks and ("v_proj", 4) in ranks
    assert model.base_model.model.model.layers[0].self_attn.v_proj.scaling["default"] == 4.0
    assert model.peft_config["default"].base_model_name_or_path == base


def test_another_stage_is_refused(base, rows, tmp_path):
    with pytest.raises(ValueError, match="of stage 'instruction_tuning'"):
        make_trainer(script(base, rows), make_args(tmp_path, "end_to_end"))


def test_the_command_trains_with_a_recipe(base, rows, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    fields = {"base": base, "model_fields": LORA, "train_files": [rows], "stage": "instruction_tuning"}
    more = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "documents_per_question": 2}
    recipe.write_text(json.dumps({**fields, **more, "disable_tqdm": True, "save_strategy": "no"}))
    train.run(
        argparse.Namespace(stage="text_baseline", options=["--config", str(recipe), "--max_steps", "1"])
    )
    assert (tmp_path / "run" / "final" / "adapter_model.safetensors").is_file()


def test_goes_on_from_complete_checkpoints_of_its_own_run_alone(base, rows, tmp_path):
    fields = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2}
    whole = run(script(base, rows), make_args(tmp_path / "whole", "instruction_tuning", **fields))
    run(script(base, rows), make_args(tmp_path / "cut", "instruction_tuning", **fields))
    shutil.rmtree(tmp_path / "cut" / "checkpoint-3")
    half = tmp_path / "cut" / "checkpoint-3"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    again = run(script(base, rows), make_args(tmp_path / "cut", "instruction_tuning", **fields))
    found, expected = (dict(trainer.model.named_parameters()) for trainer in (again, whole))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(ValueError, match="is of another run: its `seed` is 42, not 1"):
        run(script(base, rows), make_args(tmp_path / "cut", "instruction_tuning", **fields, seed=1))
    for name, value in (("lora_alpha", 4), ("lora_dropout", 0.3), ("doc_max_length", 32)):
        changed = script(base, rows)
        changed.model_fields = {**(changed.model_fields or {}), name: value}
        with pytest.raises(ValueError, match=f"is of another run: .*its `{name}` is .*, not {value}"):
            run(changed, make_args(tmp_path / "cut", "instruction_tuning", **fields))


def test_what_it_does_not_do_is_refused_and_the_attention_is_the_one_asked_for(base, rows, tmp_path):
    for name in ("load_in_4bit", "load_in_8bit"):
        with pytest.raises(ValueError, match=f"the text baseline has no `{name}`, got True: leave it out"):
            make_trainer(script(base, rows, **{name: True}), make_args(tmp_path, "instruction_tuning"))
    with pytest.raises(ValueError, match="has no `max_minutes`, got 2"):
        make_trainer(script(base, rows), make_args(tmp_path, "instruction_tuning", max_minutes=2))
    eager = script(base, rows, attn_implementation="eager")
    made = make_trainer(eager, make_args(tmp_path / "run", "instruction_tuning"))
    assert made.model.config._attn_implementation == "eager"


def test_it_is_evaluated_saved_and_prepared_as_the_recipe_says(base, rows, tmp_path):
    args = make_args(tmp_path / "run", "instruction_tuning", eval_strategy="steps", eval_steps=1)
    trainer = run(script(base, rows, eval_files=[rows], eval_limit=3, final_dtype="bfloat16"), args)
    losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert len(losses) == 2 and len(trainer.eval_dataset) == 3
    saved = load_file(tmp_path / "run" / "final" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    prepared = make_args(tmp_path / "none", "instruction_tuning", eval_strategy="steps")
    assert run(script(base, rows, prepare_only=True), prepared).state.global_step == 0
    assert not (tmp_path / "none" / "final").exists()


def test_the_loss_of_held_out_rows_is_that_of_their_answers(base, rows, tmp_path):
    made = script(base, rows, eval_files=[rows], eval_limit=2)
    trainer = make_trainer(made, make_args(tmp_path, "instruction_tuning"))
    batch = trainer.data_collator([trainer.eval_dataset[0], trainer.eval_dataset[1]])
    with torch.no_grad():
        expected = trainer.model.eval()(**batch).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_row_that_is_too_long_is_named_before_training(base, tmp_path):
    tokenizer = make_tokenizer()
    long = QuestionRecord("Q?", ("word " * 900,), ("one", "two"))
    collator = TextCollator(tokenizer, 2, 64, 512)
    check_lengths(collator, QUESTION_ROWS)
    with pytest.raises(ValueError, match="Row 8: a prompt with its answer has .* the limit is 512"):
        check_lengths(collator, [*QUESTION_ROWS, long])
