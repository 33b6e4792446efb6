"""Arms: fields of a phase, training with parts frozen, going on, refusing another run's checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from clara.adapters_clara import adapter_state
from clara.data.readers import read_questions
from clara.evaluation.training_arms import SETTINGS, Arm, Phase, Plan, phase_fields, trained


def plan(base, tmp_path, **kwargs):
    return Plan(
        **{"start": None, "base": base, "recipes": {}, "steps": 1, "seed": 0, "folder": tmp_path, **kwargs}
    )


def test_an_arms_fields_win_over_the_recipes(base, tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [{"question": f"q{n}", "answer": "a", "docs": [f"x{n}", "y"], "pos_index": [0]} for n in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "stage": "end_to_end",
        "per_device_train_batch_size": 2,
        "model": "elsewhere",
        "output_dir": "elsewhere",
        "learning_rate": 0.5,
        "num_train_epochs": 3,
        "train_files": [str(file)],
        "eval_files": ["dev.jsonl"],
        "model_fields": {"lora_r": 3},
    }
    shared = plan(base, tmp_path, recipes={"end_to_end": recipe}, steps=7)
    phase = Phase("end_to_end", {"frozen": ["generator"], "model_fields": {"retrieval_temperature": 0.5}})
    found = phase_fields(shared, Arm((phase,), seed=4), phase, "checkpoint")
    assert found["model"] == "checkpoint"
    assert found["model_fields"] == {"retrieval_temperature": 0.5}
    assert (found["max_steps"], found["seed"], found["learning_rate"]) == (7, 4, 0.5)
    assert (found["frozen"], found["eval_files"]) == (["generator"], [])
    drawn = list(read_questions(found["train_files"]))
    assert len(drawn) == 14  # seven steps of two
    assert len({record.question for record in drawn}) == 14
    again = phase_fields(shared, Arm((Phase("end_to_end"),)), Phase("end_to_end"), "checkpoint")
    assert again["train_files"] == found["train_files"]
    assert again["memory_folder"] == found["memory_folder"]  # compressed once for both arms
    assert phase_fields(shared, Arm(), phase, "other")["memory_folder"] != found["memory_folder"]
    assert "output_dir" not in found and "num_train_epochs" not in found
    new = phase_fields(shared, Arm((phase,)), phase, None)
    assert new["model_fields"] == {"lora_dropout": 0.0, "lora_r": 3, "retrieval_temperature": 0.5}
    assert new["base"] == base and "model" not in new


def test_the_start_reads_questions_with_a_copy_of_the_compressor(checkpoint, base, tmp_path):
    model = trained(plan(base, tmp_path, start=checkpoint), "start", Arm(copy_compressor=True))
    compressor, reasoner = (adapter_state(model.decoder, n) for n in ("compressor", "query_reasoner"))
    assert all(torch.equal(compressor[name], reasoner[name]) for name in compressor)
    assert not model.training


def test_trains_goes_on_and_refuses(base, tmp_path, monkeypatch):
    arm = Arm((Phase("instruction_tuning", {"frozen": ["compressor"]}), Phase("end_to_end")))
    shared = plan(base, tmp_path)
    model = trained(shared, "two phases", arm)
    first = adapter_state(model.decoder, "compressor")
    assert not any(tensor.any() for name, tensor in first.items() if "lora_B" in name)  # frozen since fresh
    generator = adapter_state(model.decoder, "generator")
    assert any(tensor.any() for name, tensor in generator.items() if "lora_B" in name)

    def never(*_):
        raise RuntimeError("trained again")

    monkeypatch.setattr("clara.evaluation.training_arms.run", never)
    again = trained(shared, "two phases", arm)
    for name, tensor in adapter_state(again.decoder, "generator").items():
        assert torch.equal(tensor, generator[name])
    with pytest.raises(ValueError, match="was trained with other settings"):
        trained(plan(base, tmp_path, steps=2), "two phases", arm)
    assert Path(tmp_path, "two-phases", "1-end_to_end", SETTINGS).is_file()


def test_fields_of_the_model_change_over_a_checkpoint(checkpoint, base, tmp_path):
    arm = Arm((Phase("end_to_end", {"model_fields": {"retrieval_temperature": 0.5}}),))
    model = trained(plan(base, tmp_path, start=checkpoint), "warm", arm)
    assert model.config.retrieval_temperature == 0.5
