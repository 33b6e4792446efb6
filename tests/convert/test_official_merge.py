"""Joining base and checkpoint: names, shapes, copies, and a base that looks like another one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from clara.convert.official import convert_official
from official_helpers import make_base, make_official
from safetensors.torch import load_file, save_file

TABLES = "decoder_first_last_layers.pth"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_official(tmp_path_factory.mktemp("official"), tied=True)


@pytest.fixture
def copied(made, tmp_path):
    return Path(shutil.copytree(made.checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def base(made, tmp_path):
    return Path(shutil.copytree(made.base, tmp_path / "base"))


def edit_base(base, change):
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def test_a_tied_head_may_lie_beside_the_embedding(made, copied, tmp_path):
    tables = torch.load(copied / TABLES, weights_only=True)
    table = tables["model.embed_tokens.weight"]
    torch.save({**tables, "lm_head.weight": table.clone()}, copied / TABLES)
    folder = convert_official(copied, made.base, tmp_path / "model")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    torch.save({**tables, "lm_head.weight": table + 1}, copied / TABLES)
    with pytest.raises(ValueError, match="must hold .'model.embed_tokens.weight'., got"):
        convert_official(copied, made.base, tmp_path / "other")


@pytest.mark.parametrize("tables", [{}, {"lm_head.weight": torch.ones(2, 2)}, {"wte": torch.ones(2, 2)}])
def test_tables_without_the_embedding(made, copied, tmp_path, tables):
    torch.save(tables, copied / TABLES)
    with pytest.raises(ValueError, match=f"{TABLES} of .* must hold"):
        convert_official(copied, made.base, tmp_path / "model")


def test_what_is_neither_lora_nor_a_copy(made, copied, tmp_path):
    adapters = torch.load(copied / "adapters.pth", weights_only=True)
    adapters["decoder_adapter"]["model.norm.weight"] = torch.ones(32)
    torch.save(adapters, copied / "adapters.pth")
    with pytest.raises(ValueError, match="'model.norm.weight' in its generator, which is no LoRA"):
        convert_official(copied, made.base, tmp_path / "model")


def test_a_base_that_does_not_fit_its_own_config(copied, base, tmp_path):
    edit_base(base, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(ValueError, match="do not fit its config.json: .* missing .'model.norm.weight'"):
        convert_official(copied, str(base), tmp_path / "model")
    edit_base(base, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
    with pytest.raises(ValueError, match="misshapen .'model.norm.weight'"):
        convert_official(copied, str(base), tmp_path / "model")


def test_a_base_without_the_embeddings_name(copied, base, tmp_path):
    edit_base(base, lambda tensors: tensors.update(embed=tensors.pop("model.embed_tokens.weight")))
    with pytest.raises(ValueError, match="hold no 'model.embed_tokens.weight'"):
        convert_official(copied, str(base), tmp_path / "model")


def test_a_base_of_the_same_sizes_but_other_weights_is_mentioned(tmp_path, caplog):
    """Embeddings that training left alone tell the base; here the right one, then another."""
    made = make_official(tmp_path)
    tables = torch.load(made.checkpoint / TABLES, weights_only=True)
    own = load_file(Path(made.base) / "model.safetensors")["model.embed_tokens.weight"]
    tables["model.embed_tokens.weight"][:400] = own[:400].bfloat16().float()
    torch.save(tables, made.checkpoint / TABLES)
    adapters = torch.load(made.checkpoint / "adapters.pth", weights_only=True)
    lora = {n: {k: t for k, t in value.items() if ".lora_" in k} for n, value in adapters.items()}
    torch.save(lora, made.checkpoint / "adapters.pth")
    convert_official(made.checkpoint, made.base, tmp_path / "right")
    assert "is this the base" not in caplog.text
    other = make_base(tmp_path / "other", initializer_range=0.05)
    convert_official(made.checkpoint, other, tmp_path / "wrong")
    assert "0 % of the base's embedding rows" in caplog.text
    assert json.loads((tmp_path / "wrong" / "config.json").read_text())["base_is_changed"]
