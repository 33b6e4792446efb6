"""The files of a checkpoint: own tensors, key names, stale files, generation settings, uploads."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from clara.checkpoint_clara import (
    base_path,
    base_state,
    check_saving,
    greedy_generation_config,
    own_names,
    read_own_tensors,
    remove_stale_weights,
    upload,
)
from clara.configuration_clara import ClaraConfig
from conftest import make_model
from safetensors.torch import save_file
from transformers import GenerationConfig

NAMES = ("memory_tokens",)
OWN = {"memory_tokens": torch.ones(4, 8)}
BASE = {"model.embed_tokens.weight": torch.ones(3, 8)}


def test_a_tokenizer_without_an_end_is_refused_when_the_model_is_made(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    file = folder / "tokenizer_config.json"
    fields = json.loads(file.read_text())
    del fields["eos_token"]
    file.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="has no end-of-text token.*set `eos_token`"):
        make_model(str(folder))


def test_own_names_follow_the_configuration():
    assert own_names(ClaraConfig()) == ("memory_tokens",)
    assert own_names(ClaraConfig(connector="rms")) == ("memory_tokens", "memory_gain")
    assert own_names(ClaraConfig(pooling="mean")) == ()
    assert own_names(ClaraConfig(pooling="mean", connector="rms")) == ("memory_gain",)


def test_base_path_needs_a_name(monkeypatch):
    assert base_path("org/some-base") == "org/some-base"
    monkeypatch.setattr("clara.bases.embedded.embedded_base_path", lambda name: f"/cache/{name}")
    assert base_path("smollm2-135m") == "/cache/smollm2-135m"
    for nothing in (None, ""):
        with pytest.raises(ValueError, match="names none: set `base_model_name_or_path`"):
            base_path(nothing)


def test_without_the_package_the_embedded_base_is_that_of_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CLARA_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "clara.bases.embedded", None)
    with pytest.raises(ModuleNotFoundError, match="pip install clara-rag"):
        base_path("smollm2-135m")
    folder = tmp_path / "smollm2-135m-0123"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert base_path("smollm2-135m") == str(folder)


def test_own_tensors_alone_are_read_and_beside_a_base_are_left(tmp_path):
    save_file(OWN, tmp_path / "model.safetensors")
    read = read_own_tensors(str(tmp_path), NAMES)
    assert read.keys() == OWN.keys() and torch.equal(read["memory_tokens"], OWN["memory_tokens"])
    save_file({**OWN, **BASE}, tmp_path / "model.safetensors")
    assert read_own_tensors(str(tmp_path), NAMES) is None


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (BASE, NAMES),
        ({**OWN, **BASE, "memory_gain": torch.ones(8)}, NAMES),
        ({**OWN, **BASE}, ("memory_tokens", "memory_gain")),
        ({**OWN, **BASE}, ()),
    ],
)
def test_a_missing_or_extra_own_tensor_raises(tmp_path, held, expected):
    save_file(held, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="beside the base, expected .* incomplete or belongs to another"):
        read_own_tensors(str(tmp_path), expected)


def test_no_weights_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors"):
        read_own_tensors(str(tmp_path), NAMES)


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_a_weights_file_cut_short_raises(tmp_path, kept):
    file = tmp_path / "model.safetensors"
    save_file(OWN, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match="is damaged or cut short"):
        read_own_tensors(str(tmp_path), NAMES)


def test_an_index_names_the_tensors_of_shards(tmp_path):
    index = {"weight_map": dict.fromkeys([*OWN, *BASE], "model-00001-of-00002.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_own_tensors(str(tmp_path), NAMES) is None
    with pytest.raises(ValueError, match="holds .* beside the base"):
        read_own_tensors(str(tmp_path), ())


def test_the_file_wins_over_an_index_as_in_transformers(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {}}))
    save_file(OWN, tmp_path / "model.safetensors")
    assert read_own_tensors(str(tmp_path), NAMES) is not None


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"model.safetensors", "model.safetensors.index.json"}, {"model.safetensors"}),
        (
            {"model.safetensors", "model.safetensors.index.json", "model-00001-of-00002.safetensors"},
            {"model.safetensors.index.json", "model-00001-of-00002.safetensors"},
        ),
        ({"model.safetensors", "config.json"}, {"model.safetensors", "config.json"}),
    ],
)
def test_stale_weights_go(tmp_path, files, left):
    for name in files:
        (tmp_path / name).touch()
    remove_stale_weights(str(tmp_path))
    assert {file.name for file in tmp_path.iterdir()} == left


def test_base_keys_are_the_bases_own():
    state = {
        "model.layers.0.q_proj.base_layer.weight": 1,
        "model.layers.0.q_proj.lora_A.compressor.weight": 2,
        "model.layers.0.experts.base_layer.base_layer.down_proj": 3,
        "lm_head.weight": 4,
    }
    assert base_state(state) == {
        "model.layers.0.q_proj.weight": 1,
        "model.layers.0.experts.down_proj": 3,
        "lm_head.weight": 4,
    }


def model_with(base_name, quantized=False, changed=False):
    config = SimpleNamespace(base_model_name_or_path=base_name, base_is_changed=changed)
    return SimpleNamespace(config=config, is_quantized=quantized)


def test_a_checkpoint_that_could_not_be_loaded_is_not_written():
    check_saving(model_with(None), True, False, {})
    check_saving(model_with("org/base", quantized=True), False, False, {})
    check_saving(model_with("org/base", changed=True), True, False, {})
    with pytest.raises(ValueError, match="`save_base=False` needs `config.base_model_name_or_path`"):
        check_saving(model_with(None), False, False, {})
    with pytest.raises(ValueError, match="pass `save_base=False`"):
        check_saving(model_with("org/base", quantized=True), True, False, {})
    with pytest.raises(ValueError, match="`save_base=False`|changed"):
        check_saving(model_with("org/base", changed=True), False, False, {})


def test_no_argument_of_saving_is_lost():
    with pytest.raises(TypeError, match=r"unknown arguments \['safe_serialisation'\]"):
        check_saving(model_with("x"), True, True, {"repo_id": "org/x", "safe_serialisation": True})
    with pytest.raises(TypeError, match=r"unknown arguments \['repo_id'\].*`push_to_hub=True`"):
        check_saving(model_with("x"), True, False, {"repo_id": "org/x"})
    check_saving(model_with("x"), True, True, {"repo_id": "org/x", "private": True})


def test_generation_is_greedy_with_the_bases_tokens():
    base = GenerationConfig(
        do_sample=True,
        temperature=0.6,
        top_p=0.9,
        top_k=20,
        max_length=99,
        eos_token_id=[2, 3],
        pad_token_id=0,
    )
    made = greedy_generation_config(base)
    assert (made.do_sample, made.max_new_tokens, made.eos_token_id, made.pad_token_id) == (
        False,
        64,
        [2, 3],
        0,
    )
    assert not {"temperature", "top_p", "top_k", "max_length"} & made.to_diff_dict().keys()
    made.validate(strict=True)


def test_an_upload_needs_a_repository_and_passes_the_rest_on(monkeypatch):
    calls = []

    class Api:
        def __init__(self, token):
            calls.append(("api", token))

        def create_repo(self, repo_id, private, exist_ok):
            calls.append(("create", repo_id, private, exist_ok))

        def upload_folder(self, **kwargs):
            calls.append(("upload", kwargs))

    monkeypatch.setattr("clara.checkpoint_clara.HfApi", Api)
    with pytest.raises(ValueError, match="`repo_id` is needed"):
        upload("folder")
    upload("folder", "org/x", token="t", private=True, commit_message="new")
    assert calls == [
        ("api", "t"),
        ("create", "org/x", True, True),
        ("upload", {"repo_id": "org/x", "folder_path": "folder", "commit_message": "new"}),
    ]
