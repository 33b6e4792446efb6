"""Reading the files of a released checkpoint: tensors alone, nothing is run."""

import collections
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from clara.convert.official_files import read_official
from official_helpers import make_official

ADAPTERS, TABLES = "adapters.pth", "decoder_first_last_layers.pth"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_official(tmp_path_factory.mktemp("official"))


@pytest.fixture
def copied(made, tmp_path):
    return Path(shutil.copytree(made.checkpoint, tmp_path / "checkpoint"))


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_adapters_get_our_names_and_copies_lie_apart(made):
    found = read_official(str(made.checkpoint))
    assert found.adapters.keys() == {"compressor", "query_reasoner", "generator"}
    assert all(".lora_" in key for tensors in found.adapters.values() for key in tensors)
    assert found.copies["generator"].keys() == found.tables.keys()
    assert found.fields["compr_rate"] == 16 and found.name == str(made.checkpoint)


def test_other_ways_of_saving_are_read(copied):
    """The old file format, ordered mappings, parameters, and PEFT's prefix of keys."""
    stored = torch.load(copied / ADAPTERS, weights_only=True)
    before = {key: t.clone() for key, t in read_official(str(copied)).adapters["compressor"].items()}
    tensors = stored["encoder_adapter"].items()
    stored["encoder_adapter"] = collections.OrderedDict(
        (f"base_model.model.{key}", torch.nn.Parameter(tensor)) for key, tensor in tensors
    )
    torch.save(stored, copied / ADAPTERS, _use_new_zipfile_serialization=False)
    after = read_official(str(copied)).adapters["compressor"]
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) and not after[key].requires_grad for key in before)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("file", [ADAPTERS, TABLES])
def test_code_in_a_file_is_refused_and_not_run(copied, monkeypatch, file, old):
    monkeypatch.chdir(copied)
    if old:
        (copied / file).write_bytes(pickle.dumps({"encoder_adapter": Code()}))
    else:
        torch.save({"encoder_adapter": Code()}, copied / file)
    with pytest.raises(ValueError, match=f"{file} is refused: .* could run code"):
        read_official(str(copied))
    assert not (copied / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "must hold a mapping of adapters, got list"),
        ({"encoder_adapter": 1, "decoder_adapter": {}}, "encoder_adapter, must hold a mapping of names"),
        ({"encoder_adapter": {"a": "b"}, "decoder_adapter": {}}, "must hold tensors alone, got str at 'a'"),
        ({"encoder_adapter": {1: torch.ones(1)}, "decoder_adapter": {}}, "must hold tensors alone"),
        ({"encoder_adapter": {"a": torch.ones(1).long()}, "decoder_adapter": {}}, "got torch.int64 at 'a'"),
        ({"encoder_adapter": {"a": torch.ones(2).to_sparse()}, "decoder_adapter": {}}, "must hold dense"),
        ({"encoder_adapter": {}, "decoder_adapter": {}, 7: {}}, r"unknown \[7\]"),
    ],
)
def test_anything_but_tensors_is_refused(copied, content, message):
    torch.save(content, copied / ADAPTERS)
    with pytest.raises(ValueError, match=message):
        read_official(str(copied))


@pytest.mark.parametrize("file", [ADAPTERS, TABLES])
@pytest.mark.parametrize("size", [0, 3, 100, -1, -2000])
def test_a_cut_file_is_told(copied, file, size):
    data = (copied / file).read_bytes()
    (copied / file).write_bytes(data[:size])
    with pytest.raises(ValueError, match=f"{file} is (damaged|refused)"):
        read_official(str(copied))


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_a_config_that_is_no_json_object(copied, text):
    (copied / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json (is damaged|must hold a JSON object)"):
        read_official(str(copied))


def test_a_repository_that_cannot_be_reached():
    with pytest.raises(OSError, match="nobody/nothing"):
        read_official("nobody/nothing", "compression-16")
