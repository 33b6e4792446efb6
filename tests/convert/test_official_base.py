"""A base's weights: found without reading, rounded as loaded, written in shards."""

import json
from pathlib import Path

import pytest
import torch
from clara.convert import official_base
from clara.convert.official_base import as_loaded, read_base, write_weights
from safetensors.torch import load_file, save_file


def sharded_base(folder):
    folder.mkdir()
    save_file({"a": torch.full((4, 4), 1.01), "b": torch.ones(2)}, folder / "model-1.safetensors")
    save_file({"c": torch.zeros(3, dtype=torch.float16)}, folder / "model-2.safetensors")
    names = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def test_rounding():
    assert as_loaded(torch.tensor([1.0, 1.01])).tolist() == [1.0, 1.0078125]
    kinds = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
    assert [as_loaded(torch.ones(1, dtype=kind)).dtype for kind in kinds] == [torch.float32] + [
        torch.bfloat16
    ] * 3


def test_shards_and_their_index(tmp_path, monkeypatch):
    found = read_base(str(sharded_base(tmp_path / "base")))
    assert {name: (one.shape, one.nbytes) for name, one in found.items()} == {
        "a": ((4, 4), 64), "b": ((2,), 8), "c": ((3,), 6),
    }  # fmt: skip
    monkeypatch.setattr(official_base, "SHARD_BYTES", 70)
    (tmp_path / "out").mkdir()
    write_weights(tmp_path / "out", {**found, "b": torch.full((5,), 2.0), "own": torch.ones(1)})
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == {"a", "b", "c", "own"} and len(set(index.values())) == 2
    tensors = {}
    for file in set(index.values()):
        tensors |= load_file(tmp_path / "out" / file)
    assert tensors["a"].tolist() == [[1.0078125] * 4] * 4 and tensors["b"].tolist() == [2.0] * 5
    assert tensors["c"].dtype == torch.bfloat16


def test_a_small_model_is_one_file(tmp_path):
    write_weights(tmp_path, {"a": torch.ones(2)})
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_bases_that_cannot_be_read(tmp_path):
    base = sharded_base(tmp_path / "base")
    (base / "model-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks .'model-2.safetensors'"):
        read_base(str(base))
    (base / "model-2.safetensors").write_bytes(b"\x08\0\0\0")
    with pytest.raises(ValueError, match="model-2.safetensors is damaged"):
        read_base(str(base))
    save_file({"c": torch.zeros(3, dtype=torch.uint8)}, base / "model-2.safetensors")
    with pytest.raises(ValueError, match="before it was quantised"):
        read_base(str(base))
    with pytest.raises(FileNotFoundError, match="has no weights in safetensors"):
        read_base(str(Path(tmp_path, "empty").mkdir() or tmp_path / "empty"))
