"""Checkpoints of adapters alone; only complete ones count."""

import json
import os
import shutil

import pytest
import torch
from clara.configuration_clara import ADAPTERS
from clara.train.checkpoints import (
    complete_checkpoints,
    is_complete,
    last_complete_checkpoint,
    load_trained,
    mark_complete,
    rotate,
    save_trained,
    trained_state,
)
from conftest import make_model, stir
from safetensors.torch import load_file
from training_helpers import make_trainer, parameters


def make_folders(root, complete=(), half=()):
    for step in (*complete, *half):
        (root / f"checkpoint-{step}" / "part").mkdir(parents=True)
        (root / f"checkpoint-{step}" / "part" / "weights").write_text("x")
    for step in complete:
        mark_complete(root / f"checkpoint-{step}", step)


def steps(root):
    return sorted(int(folder.name.split("-")[1]) for folder in root.glob("checkpoint-*"))


def test_only_complete_checkpoints_count_and_steps_are_numbers(tmp_path):
    make_folders(tmp_path, complete=(9, 10), half=(11,))
    (tmp_path / "checkpoint-best").mkdir()
    assert [folder.name for folder in complete_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert json.loads((tmp_path / "checkpoint-10" / "complete.json").read_text()) == {"step": 10}
    assert is_complete(tmp_path / "checkpoint-10") and not is_complete(tmp_path / "checkpoint-11")
    assert last_complete_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("limit", "keep", "left"),
    [(None, None, [1, 2, 3]), (2, None, [2, 3]), (1, 1, [1, 3]), (5, None, [1, 2, 3])],
)
def test_the_oldest_go_and_the_best_stays(tmp_path, limit, keep, left):
    make_folders(tmp_path, complete=(1, 2, 3), half=(4,))
    rotate(tmp_path, limit, keep and f"{tmp_path}/checkpoint-{keep}")
    assert steps(tmp_path) == [*left, 4]


@pytest.mark.parametrize("fields", [{}, {"connector": "rms"}, {"pooling": "mean"}])
def test_adapters_and_own_parameters_come_back_exactly(base, tmp_path, fields):
    model = make_model(base, **fields)
    model.save_pretrained(tmp_path, save_base=False)
    other = stir(make_model(base, **fields), seed=9)
    load_trained(other, str(tmp_path))
    expected = parameters(model)
    assert all(torch.equal(p, expected[name]) for name, p in other.named_parameters())


def test_the_state_holds_no_base(shared_model):
    state = trained_state(shared_model)
    base = [name for name in state if ".lora_" not in name]
    assert base == ["memory_tokens"]
    assert len(state) == 1 + 3 * 2 * 2 * 7


def test_a_checkpoint_of_a_run_holds_no_base_and_loads_over_the_named_one(model, tmp_path):
    from clara.modeling_clara import ClaraForRetrievalGeneration

    trainer = make_trainer(model, tmp_path, save_strategy="steps", save_steps=1, max_steps=1)
    trainer.train()
    folder = tmp_path / "checkpoint-1"
    assert set(load_file(folder / "model.safetensors")) == {"memory_tokens"}
    for name in ADAPTERS:
        assert all(".lora_" in key for key in load_file(folder / name / "adapter_model.safetensors"))
    assert not list(folder.glob("**/*.bin"))
    loaded = ClaraForRetrievalGeneration.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_a_model_whose_base_has_no_name_is_saved_and_resumed_too(base, tmp_path):
    model = make_model(base)
    model.config.base_model_name_or_path = None
    trainer = make_trainer(model, tmp_path, save_strategy="steps", save_steps=1, max_steps=1)
    trainer.train()
    assert set(load_file(tmp_path / "checkpoint-1" / "model.safetensors")) == {"memory_tokens"}
    other = stir(make_model(base), seed=9)
    load_trained(other, str(tmp_path / "checkpoint-1"))
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))
    trainer.save_final(tmp_path / "final")
    assert len(load_file(tmp_path / "final" / "model.safetensors")) > 10


def test_missing_files_and_wrong_tensors_are_refused(model, tmp_path):
    save_trained(model, str(tmp_path / "good"))
    folder = shutil.copytree(tmp_path / "good", tmp_path / "lacking")
    shutil.rmtree(folder / "generator")
    with pytest.raises(FileNotFoundError, match="lacks its generator adapter"):
        load_trained(model, str(folder))
    folder = shutil.copytree(tmp_path / "good", tmp_path / "tokenless")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no model.safetensors"):
        load_trained(model, str(folder))


def test_a_checkpoint_of_another_shape_is_refused(model, base, tmp_path):
    save_trained(make_model(base, lora_r=2, compression_rate=16), str(tmp_path / "rank"))
    with pytest.raises(ValueError, match="misshapen"):
        load_trained(model, str(tmp_path / "rank"))
    save_trained(make_model(base, compression_rate=8), str(tmp_path / "rate"))
    with pytest.raises(ValueError, match="another compression rate"):
        load_trained(model, str(tmp_path / "rate"))


def test_a_full_model_is_no_training_checkpoint(model, tmp_path):
    model.save_pretrained(tmp_path, save_base=True)
    with pytest.raises(ValueError, match="holds base weights: it is no training checkpoint"):
        load_trained(model, str(tmp_path))


def test_every_file_is_on_the_disk_before_the_marker_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "weights").write_text("x")
    synced, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))

    def named(source, target):
        assert {str(tmp_path / "part" / "weights"), str(source)} <= set(synced)
        replace(source, target)

    monkeypatch.setattr(os, "replace", named)
    mark_complete(tmp_path, 3)
    assert is_complete(tmp_path)
