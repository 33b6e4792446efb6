"""The fingerprint: moves with what makes memories, stays with what does not."""

import json
import shutil

import pytest
import torch
from clara.adapters_clara import CHUNK, _known, _rounded, _sums, adapter_parameters, model_fingerprint
from clara.modeling_clara import ClaraForRetrievalGeneration
from conftest import DOCUMENTS, make_model, save_base


@torch.no_grad()
def nudge(parameter):
    parameter.view(-1)[-1] += 0.25


def test_it_is_a_sha256_and_repeats(shared_model, base):
    digest = model_fingerprint(shared_model)
    assert len(digest) == 64 and int(digest, 16) >= 0
    assert digest == model_fingerprint(shared_model) == model_fingerprint(make_model(base))
    assert digest == shared_model.memory_fingerprint()


def test_sums_and_rounding_are_those_of_the_definition():
    """Every bfloat16 there is, over more than one chunk; and integers, as a quantised base has them."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    bits = values.masked_fill(values.abs() < 2**-16, 0.0).view(torch.int16)
    assert torch.equal(_rounded(values).view(torch.int16), bits)
    weight = values.repeat(33)[:-5]
    assert len(weight) > CHUNK
    whole = bits.repeat(33)[:-5].long()
    assert _sums(weight) == (int(whole.sum()), int((whole * (torch.arange(len(whole)) % 32749)).sum()))
    assert _sums(torch.tensor([[7, 250], [3, 5]], dtype=torch.uint8)) == (265, 250 + 2 * 3 + 3 * 5)


def test_loads_and_saves_keep_it_in_float32_and_bfloat16(shared_model, checkpoint, tmp_path):
    digest = model_fingerprint(shared_model)
    half = ClaraForRetrievalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert model_fingerprint(half) == digest
    half.save_pretrained(tmp_path)
    assert model_fingerprint(ClaraForRetrievalGeneration.from_pretrained(tmp_path)) == digest
    assert model_fingerprint(ClaraForRetrievalGeneration.from_pretrained(checkpoint)) == digest


def test_moving_and_casting_in_place_keep_it(model):
    digest = model_fingerprint(model)
    assert model_fingerprint(model.bfloat16()) == digest
    assert model_fingerprint(model.float()) == digest


def test_float16_agrees_with_files_in_bfloat16_down_to_the_smallest_values(base, tmp_path):
    model = make_model(base).bfloat16()
    tiny = torch.tensor([2.0**-power * sign for power in range(12, 30) for sign in (1.0, -1.0, 1.9921875)])
    with torch.no_grad():
        for parameter in adapter_parameters(model.decoder, ["compressor"]):
            parameter.view(-1)[: len(tiny)] = tiny[: parameter.numel()]
        for parameter in model.decoder.get_input_embeddings().parameters():
            parameter.view(-1)[: len(tiny)] = tiny
    model.save_pretrained(tmp_path)
    loads = [
        ClaraForRetrievalGeneration.from_pretrained(tmp_path, dtype=dtype)
        for dtype in (torch.float16, torch.float32)
    ]
    assert [load.dtype for load in loads] == [torch.float16, torch.float32]
    assert {model_fingerprint(load) for load in loads} == {model_fingerprint(model)}


def test_float32_files_in_float16_are_another_base(checkpoint, shared_model):
    """Rounded twice, so other values: refused rather than nearly right."""
    half = ClaraForRetrievalGeneration.from_pretrained(checkpoint, dtype=torch.float16)
    assert model_fingerprint(half) != model_fingerprint(shared_model)


@pytest.mark.parametrize("adapter", ["query_reasoner", "generator"])
def test_the_other_adapters_do_not_count(model, adapter):
    digest = model_fingerprint(model)
    for parameter in adapter_parameters(model.decoder, [adapter]):
        nudge(parameter)
    assert model_fingerprint(model) == digest


def test_every_tensor_of_the_compressor_and_the_memory_tokens_count(model):
    seen = {model_fingerprint(model)}
    counted = [*adapter_parameters(model.decoder, ["compressor"]), model.memory_tokens]
    for parameter in counted:
        nudge(parameter)
        seen.add(model_fingerprint(model))
    assert len(seen) == len(counted) + 1


def test_a_training_step_changes_it(model):
    digest = model_fingerprint(model)
    model.set_trainable(["compressor"], memory_tokens=False)
    optimizer = torch.optim.AdamW(adapter_parameters(model.decoder, ["compressor"]), lr=0.1)
    model.compress(**model.processor.encode_documents(DOCUMENTS[:1])).values.square().sum().backward()
    optimizer.step()
    assert model_fingerprint(model) != digest


def test_the_base_counts(shared_model, tmp_path):
    assert model_fingerprint(make_model(save_base(tmp_path, seed=1))) != model_fingerprint(shared_model)


@pytest.mark.parametrize(
    "fields",
    [
        {"pooling": "mean"},
        {"compression_rate": 32},
        {"doc_max_length": 128, "compression_rate": 32},
        {"text_prefix": ""},
        {"text_suffix": "<|im_end|>"},
        {"encoder_length": 64},
        {"encoder_positions": "columns"},
    ],
)
def test_the_shape_of_memories_counts(shared_model, base, fields):
    assert model_fingerprint(make_model(base, **fields)) != model_fingerprint(shared_model)


def test_fields_of_search_and_generation_do_not_count(shared_model, base):
    model = make_model(base, retrieval_top_k=2, connector="rms", prompt_style="released")
    assert model_fingerprint(model) == model_fingerprint(shared_model)


def test_a_tied_base_keeps_it_through_files(tmp_path):
    model = make_model(save_base(tmp_path / "base", tied=True))
    model.save_pretrained(tmp_path / "model")
    again = ClaraForRetrievalGeneration.from_pretrained(tmp_path / "model")
    assert model_fingerprint(again) == model_fingerprint(model)


def test_every_base_weight_counts_at_every_place(model):
    seen = {model_fingerprint(model)}
    weight = model.decoder.base_model.layers[0].mlp.down_proj.base_layer.weight
    with torch.no_grad():
        for place in (0, 7, 1001, weight.numel() - 1):
            weight.view(-1)[place] += 0.25
            seen.add(fresh_fingerprint(model))
        flat = weight.view(-1)
        flat[[3, 5]] = flat[[5, 3]].clone()  # the same values in other places
        seen.add(fresh_fingerprint(model))
    assert len(seen) == 6


def fresh_fingerprint(model):
    _known.pop(model, None)
    return model_fingerprint(model)


def test_the_compressors_scaling_counts(checkpoint, shared_model, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    for adapter, moves in (("generator", False), ("compressor", True)):
        file = folder / adapter / "adapter_config.json"
        fields = json.loads(file.read_text())
        file.write_text(json.dumps({**fields, "lora_alpha": 64}))
        loaded = ClaraForRetrievalGeneration.from_pretrained(str(folder))
        assert (model_fingerprint(loaded) != model_fingerprint(shared_model)) is moves


@pytest.mark.parametrize(
    ("field", "value", "moves"),
    [("rms_norm_eps", 1e-2, True), ("rope_parameters", {"rope_theta": 500.0, "rope_type": "default"}, True),
     ("use_cache", False, False)],
)  # fmt: skip
def test_the_bases_configuration_counts_where_it_changes_states(
    checkpoint, shared_model, tmp_path, field, value, moves
):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"][field] = value
    (folder / "config.json").write_text(json.dumps(config))
    loaded = ClaraForRetrievalGeneration.from_pretrained(str(folder))
    assert (model_fingerprint(loaded) != model_fingerprint(shared_model)) is moves


@pytest.mark.parametrize(
    ("field", "value"), [("pooling", "mean"), ("compression_rate", 32), ("doc_max_length", 32)]
)
def test_fields_that_shape_a_memory_count(model, field, value):
    digest = model_fingerprint(model)
    setattr(model.config, field, value)
    assert model_fingerprint(model) != digest
