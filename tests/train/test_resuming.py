"""Going on: only with complete checkpoints of the same run, else nothing is trained or written."""

import json
import shutil

import pytest
import torch
from clara.configuration_clara import FIELDS
from clara.data.rows import pretraining_rows
from clara.train.recipe import parse_arguments
from clara.train.resuming import FREE_MODEL_FIELDS, rows_digest, run_identity, start_digest
from clara.train.run import run
from clara.train.trainer import ClaraTrainer
from conftest import make_model
from training_helpers import PRETRAINING, QUESTION_ROWS, make_args, make_trainer, parameters

SAVING = {
    "save_strategy": "steps",
    "save_steps": 1,
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "seed": 0,
}


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    make_trainer(make_model(base), folder, **SAVING).train()
    return folder


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 7}, "its `seed` is 0, not 7"),
        ({"learning_rate": 0.5}, "its `learning_rate` is 0.01, not 0.5"),
        ({"compression_rates": [16, 32]}, r"its `compression_rates` is \[\], not \[16, 32\]"),
        ({"gradient_accumulation_steps": 2}, "its `rows_per_step` is 2, not 4"),
        ({"rows": PRETRAINING[1:]}, "its training rows differ"),
        ({"rows": PRETRAINING[::-1]}, "its training rows differ"),
        ({"stage": "instruction_tuning"}, "its `stage` is 'pretraining', not 'instruction_tuning'"),
    ],
)
def test_another_run_in_the_folder_is_refused(base, finished, change, told):
    model = make_model(base)
    before = parameters(model)
    fields = {**SAVING, **change}
    with pytest.raises(ValueError, match=rf"checkpoint-2 is of another run: .*{told}.*another `output_dir`"):
        trainer = make_trainer(model, finished, **fields)
        trainer.train(resume_from_checkpoint=True)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_run_against_all_candidates_hangs_on_them_wherever_they_are_kept(base, tmp_path):
    def train(corpus, **fields):
        steps = {**SAVING, **fields, "memory_folder": str(tmp_path / "-".join(corpus))}
        args = make_args(tmp_path / "run", "end_to_end", **steps)
        trainer = ClaraTrainer(make_model(base), args, QUESTION_ROWS, corpus=corpus)
        return trainer.train(resume_from_checkpoint=True).global_step

    assert train(("Mars is red.",), pool_size=5) == 2
    assert train(("Mars is red.",), pool_size=5, max_steps=3) == 3
    with pytest.raises(ValueError, match="is of another run: it searched among other passages. Name another"):
        train(("Venus is hot.",), pool_size=5, max_steps=4)


def test_the_same_run_may_get_more_steps_and_other_logs(base, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    fields = {**SAVING, "max_steps": 3, "logging_steps": 2, "dataloader_num_workers": 1}
    trainer = make_trainer(make_model(base), folder, **fields)
    assert trainer.train(resume_from_checkpoint=True).global_step == 3


def test_starting_anew_beside_old_checkpoints_is_refused(base, finished):
    with pytest.raises(ValueError, match="holds checkpoints already: pass `resume_from_checkpoint=True`"):
        make_trainer(make_model(base), finished, **SAVING).train()


def test_a_checkpoint_without_facts_is_refused(base, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    (folder / "checkpoint-2" / "run.json").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-2 has no run.json"):
        make_trainer(make_model(base), folder, **SAVING).train(resume_from_checkpoint=True)


def test_every_own_field_is_free_or_counts(model, tmp_path):
    """A field that is added later counts, unless it is named as free."""
    identity = run_identity(make_args(tmp_path), model.config, PRETRAINING)
    assert {"stage", "signals", "learning_rate", "generation_weight", "lora_r", "rows"} <= identity.keys()
    assert not {"max_minutes", "samples", "output_dir"} & identity.keys()
    assert FIELDS - identity.keys() == set(FREE_MODEL_FIELDS)
    assert identity == json.loads(json.dumps(identity))


def test_digests_move_with_what_they_hold(base):
    assert rows_digest(QUESTION_ROWS) != rows_digest(QUESTION_ROWS[:-1])
    model = make_model(base)
    before = start_digest(model)
    with torch.no_grad():
        model.memory_tokens[0, 0] += 1
    assert start_digest(model) != before


def test_the_command_trains_nothing_in_another_runs_folder(base, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(r) + "\n" for one in PRETRAINING for r in pretraining_rows(one)))
    fields = {"doc_max_length": 64, "compression_rate": 16, "lora_r": 4}
    words = ["--stage", "pretraining", "--base", base, "--train_files", str(rows), "--use_cpu", "True"]
    words += ["--output_dir", str(tmp_path / "run"), "--max_steps", "1", "--disable_tqdm", "True"]
    words += ["--save_steps", "1", "--per_device_train_batch_size", "2", "--model_fields"]
    run(*parse_arguments([*words, json.dumps(fields)]))
    run(*parse_arguments([*words, json.dumps(fields)]))  # finished: nothing is left, nothing is refused
    card = (tmp_path / "run" / "final" / "README.md").read_text()
    assert "after 1 of 1 optimizer steps" in card
    with pytest.raises(ValueError, match="its `lora_r` is 4, not 8"):
        run(*parse_arguments([*words, json.dumps({**fields, "lora_r": 8})]))
    other = make_model(base, lora_r=4, lora_alpha=32, lora_dropout=0.1)
    other.save_pretrained(tmp_path / "start")
    start = words[:2] + ["--model", str(tmp_path / "start")] + words[4:-1]
    with pytest.raises(ValueError, match="it started from other weights"):
        run(*parse_arguments(start))
    assert (tmp_path / "run" / "final" / "README.md").read_text() == card
