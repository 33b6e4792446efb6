"""The three adapters: fresh ones change nothing, worn ones come off, files are strict and plain PEFT."""

import json
import shutil

import pytest
import torch
from clara.adapters_clara import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    adapter_names,
    adapter_parameters,
    adapter_state,
    add_adapter,
    checkpoint_contexts,
    copy_adapter,
    load_adapter,
    load_adapter_state,
    lora_config,
    save_adapter,
    tuner_layers,
    wearing,
    worn_adapters,
)
from clara.configuration_clara import ADAPTERS, ClaraConfig
from clara.modeling_clara import ClaraForRetrievalGeneration
from conftest import make_model, stir
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

IDS = torch.arange(3, 15).view(1, 12)
FIELDS = {"lora_r": 4, "lora_alpha": 8, "doc_max_length": 64}


@pytest.fixture
def decoder(base):
    return AutoModelForCausalLM.from_pretrained(base).eval()


@pytest.fixture
def fresh(base):
    """Another plain LM to load into."""
    return AutoModelForCausalLM.from_pretrained(base).eval()


@pytest.fixture
def adapted(decoder):
    """A plain LM with two different adapters."""
    for name in ("compressor", "generator"):
        add_adapter(decoder, name, lora_config(ClaraConfig(**FIELDS)))
    stir(decoder)
    return decoder


@torch.no_grad()
def logits(decoder):
    return decoder(IDS).logits


# Adding


def test_fresh_adapters_change_nothing(decoder):
    before = logits(decoder)
    for name in ADAPTERS:
        add_adapter(decoder, name, lora_config(ClaraConfig(**FIELDS)))
    assert adapter_names(decoder) == list(ADAPTERS)
    assert torch.equal(logits(decoder), before)
    for name in ADAPTERS:
        with wearing(decoder, name):
            assert torch.equal(logits(decoder), before)


def test_adding_freezes_the_base_and_keeps_what_trained(decoder):
    add_adapter(decoder, "compressor", lora_config(ClaraConfig(**FIELDS)))
    for parameter in adapter_parameters(decoder, ["compressor"]):
        parameter.requires_grad_(False)
    decoder.get_input_embeddings().weight.requires_grad_(True)
    add_adapter(decoder, "generator", lora_config(ClaraConfig(**FIELDS)))
    training = {name for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    assert training and all(".generator." in name for name in training)
    add_adapter(decoder, "query_reasoner", lora_config(ClaraConfig(**FIELDS)))
    training = [name for name, parameter in decoder.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[-2] for name in training} == {"generator", "query_reasoner"}


def test_every_adapter_has_the_same_layers(model):
    """All linear layers but the head, and never the layers of another adapter."""
    keys = [set(adapter_state(model.decoder, name)) for name in ADAPTERS]
    assert keys[0] == keys[1] == keys[2]
    assert len(keys[0]) == 2 * 7 * 2
    assert not any("lm_head" in key or any(name in key for name in ADAPTERS) for key in keys[0])


def test_the_adapted_layers_are_those_of_a_full_walk(model):
    found, layers = list(tuner_layers(model.decoder)), model.decoder.base_model.layers
    assert found == [module for module in model.decoder.modules() if isinstance(module, BaseTunerLayer)]
    layers[1] = layers[0]  # a base that runs a layer twice
    assert len(list(tuner_layers(model.decoder))) == len(found) // 2


def test_adding_twice_raises(adapted):
    with pytest.raises(ValueError, match="already has an adapter named 'compressor'"):
        add_adapter(adapted, "compressor", lora_config(ClaraConfig(**FIELDS)))


# Wearing


def test_an_adapter_changes_the_model_only_while_it_is_worn(decoder, base):
    before = logits(decoder)
    for name in ("compressor", "generator"):
        add_adapter(decoder, name, lora_config(ClaraConfig(**FIELDS)))
    stir(decoder)
    found = {}
    for name in ("compressor", "generator"):
        with wearing(decoder, name):
            assert worn_adapters(decoder) == [name]
            found[name] = logits(decoder)
        assert worn_adapters(decoder) == []
        assert torch.equal(logits(decoder), before)
    assert (found["compressor"] - before).abs().max() > 0.1
    assert (found["compressor"] - found["generator"]).abs().max() > 0.1


def test_wearing_inside_wearing_and_errors_put_back_what_was_worn(adapted):
    with wearing(adapted, "compressor"):
        with wearing(adapted, "generator"):
            assert worn_adapters(adapted) == ["generator"]
        assert worn_adapters(adapted) == ["compressor"]
        with pytest.raises(KeyError), wearing(adapted, "generator"):
            raise KeyError
        with wearing(adapted):
            assert worn_adapters(adapted) == []
        assert worn_adapters(adapted) == ["compressor"]
    assert worn_adapters(adapted) == []


def test_wearing_touches_no_requires_grad(adapted):
    """`set_adapter` flips it, and the compressor's gradient is lost."""
    adapter_parameters(adapted, ["generator"])[0].requires_grad_(False)
    before = [parameter.requires_grad for parameter in adapted.parameters()]
    with wearing(adapted, "compressor"):
        assert [parameter.requires_grad for parameter in adapted.parameters()] == before
    assert [parameter.requires_grad for parameter in adapted.parameters()] == before


def test_two_adapters_in_one_graph_both_get_gradients(adapted):
    with wearing(adapted, "compressor"):
        states = adapted.base_model(IDS).last_hidden_state
    with wearing(adapted, "generator"):
        adapted(inputs_embeds=states).logits.square().mean().backward()
    for name in ("compressor", "generator"):
        assert all(parameter.grad.abs().sum() > 0 for parameter in adapter_parameters(adapted, [name]))


def test_wearing_an_adapter_that_is_not_there(adapted):
    with pytest.raises(
        ValueError, match=r"no adapter \['query_reasoner'\], only \['compressor', 'generator'\]"
    ):
        wearing(adapted, "query_reasoner").__enter__()
    assert worn_adapters(adapted) == []


# State


def test_copy_makes_equal_and_keeps_apart(adapted):
    copy_adapter(adapted, "compressor", "generator")
    states = [adapter_state(adapted, name) for name in ("compressor", "generator")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    next(iter(states[0].values())).data.add_(1)
    assert not torch.equal(*(next(iter(state.values())) for state in states))


def test_nothing_is_copied_when_a_tensor_does_not_fit(adapted):
    own = {key: tensor.clone() for key, tensor in adapter_state(adapted, "compressor").items()}
    bad = {key: torch.zeros_like(tensor) for key, tensor in own.items()}
    bad[sorted(bad)[-1]] = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="1 misshapen"):
        load_adapter_state(adapted, "compressor", bad, "a test")
    assert all(torch.equal(tensor, own[key]) for key, tensor in adapter_state(adapted, "compressor").items())


def test_parameters_of_one_adapter_and_of_all(adapted):
    one, other = (adapter_parameters(adapted, [name]) for name in ("compressor", "generator"))
    assert len(one) == len(other) == 2 * len(list(tuner_layers(adapted)))
    assert {id(p) for p in one} | {id(p) for p in other} == {id(p) for p in adapter_parameters(adapted)}
    assert not {id(p) for p in one} & {id(p) for p in other}


# Files


@pytest.fixture
def folder(adapted, tmp_path):
    for name in ("compressor", "generator"):
        save_adapter(adapted, name, str(tmp_path / name))
    return tmp_path


def test_round_trip_is_exact_and_wears_nothing(adapted, folder, fresh):
    with wearing(adapted, "generator"):
        expected = logits(adapted)
    load_adapter(fresh, str(folder), "generator")
    assert worn_adapters(fresh) == []
    with wearing(fresh, "generator"):
        assert torch.equal(logits(fresh), expected)


def test_files_are_plain_peft(adapted, folder, fresh):
    assert sorted(file.name for file in (folder / "compressor").iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    assert json.loads((folder / "compressor" / CONFIG_FILE).read_text())["inference_mode"] is True
    assert adapted.peft_config["compressor"].inference_mode is False
    loaded = PeftModel.from_pretrained(fresh, str(folder), subfolder="compressor").eval()
    with wearing(adapted, "compressor"):
        assert torch.equal(logits(loaded), logits(adapted))


def test_files_in_another_dtype(adapted, tmp_path):
    save_adapter(adapted, "generator", str(tmp_path / "generator"), dtype=torch.bfloat16)
    tensors = load_file(tmp_path / "generator" / WEIGHTS_FILE)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert {p.dtype for p in adapter_parameters(adapted)} == {torch.float32}


def drop(tensors):
    del tensors[sorted(tensors)[0]]


def add(tensors):
    tensors["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 32)


def reshape(tensors):
    tensors[sorted(tensors)[0]] = torch.zeros(5, 5)


@pytest.mark.parametrize(
    ("change", "told"), [(drop, "1 missing"), (add, "1 extra"), (reshape, "1 misshapen")]
)
def test_tensors_that_do_not_fit_raise(folder, fresh, change, told):
    file = folder / "compressor" / WEIGHTS_FILE
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(ValueError, match=rf"Adapter 'compressor' does not fit .*{told} \(first: "):
        load_adapter(fresh, str(folder), "compressor")


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file_raises(folder, fresh, name):
    (folder / "generator" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no generator/{name}"):
        load_adapter(fresh, str(folder), "generator")


def test_a_missing_folder_raises(folder, fresh):
    shutil.rmtree(folder / "generator")
    with pytest.raises(FileNotFoundError, match="lacks its generator adapter"):
        load_adapter(fresh, str(folder), "generator")


@pytest.mark.parametrize("kept", [0, 7, 500, -1])
def test_a_file_cut_short_raises(folder, fresh, kept):
    file = folder / "compressor" / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match="is damaged or cut short"):
        load_adapter(fresh, str(folder), "compressor")
    assert adapter_names(fresh) == []


def test_targets_may_be_named(base):
    model = make_model(base, lora_target_modules=["q_proj", "v_proj"])
    keys = adapter_state(model.decoder, "compressor")
    assert len(keys) == 2 * 2 * 2
    assert all("q_proj" in key or "v_proj" in key for key in keys)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"use_dora": True}, "got `use_dora` True"),
        ({"target_modules": r".*_proj"}, r"got `target_modules` '\.\*_proj'"),
        ({"target_modules": ["q_proj", "(a+)+$"]}, r"got `target_modules` \['\(a\+\)\+\$'\]"),
        ({"r": 10**9}, "the rank of `r` must be from 1 to 4096, got 1000000000"),
        ({"rank_pattern": {"q_proj": 0}}, "the rank of `q_proj` must be from 1 to 4096, got 0"),
        ({"modules_to_save": ["lm_head"]}, r"got `modules_to_save` \['lm_head'\]"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"peft_type": "NEW"}, "plain LoRA .*got KeyError: 'NEW'"),
        ({"target_modules": [5]}, "plain LoRA .*got TypeError"),
        ({"target_modules": []}, r"got `target_modules` \[\]|set\(\)"),
        ({"rank_pattern": [1]}, "plain LoRA .*got TypeError"),
        ({"lora_alpha": "big"}, "plain LoRA .*got TypeError"),
        ({"lora_alpha": float("nan")}, r"alphas and dropout must be numbers from 0 on, got \[nan"),
        ({"init_lora_weights": "pissa"}, "got `init_lora_weights` 'pissa'"),
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused(checkpoint, tmp_path, changes, told):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    file = folder / "compressor" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ValueError, match=rf"compressor.adapter_config.json.*({told})"):
        ClaraForRetrievalGeneration.from_pretrained(str(folder))
    file.write_text("no JSON")
    with pytest.raises(ValueError, match=r"adapter_config.json must be .* plain LoRA .*got JSONDecodeError"):
        ClaraForRetrievalGeneration.from_pretrained(str(folder))


def test_a_recomputation_wears_what_the_forward_pass_wore(model):
    with wearing(model.decoder, "compressor"):
        forward, again = checkpoint_contexts(model.decoder)
        with forward:
            assert worn_adapters(model.decoder) == ["compressor"]
    with wearing(model.decoder, "generator"):
        with again:
            assert worn_adapters(model.decoder) == ["compressor"]
        assert worn_adapters(model.decoder) == ["generator"]
