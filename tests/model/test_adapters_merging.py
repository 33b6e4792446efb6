"""Merged adapters: the same answers, the base untouched, never used where they would be stale or wrong."""

import threading

import pytest
import torch
from clara.adapters_clara import (
    MERGED,
    adapter_parameters,
    copy_adapter,
    merge,
    merged_weight,
    tuner_layers,
    wearing,
    worn_adapters,
)
from clara.modeling_clara import ClaraForRetrievalGeneration
from conftest import DOCUMENTS, QUESTIONS, make_model


@pytest.fixture
def merged(base):
    model = make_model(base)
    with torch.no_grad():
        for parameter in adapter_parameters(model.decoder):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def test_a_merged_weight_by_hand(merged):
    layer = next(tuner_layers(merged.decoder))
    a, b = layer.lora_A["generator"].weight, layer.lora_B["generator"].weight
    expected = layer.base_layer.weight + layer.scaling["generator"] * b @ a
    torch.testing.assert_close(merged_weight(layer, "generator"), expected.detach())
    assert (expected - layer.base_layer.weight).abs().max() > 1e-3


def test_answers_and_choices_stay_and_the_base_is_untouched(merged):
    memory = merged.build_memory(DOCUMENTS, show_progress=False)
    before = {name: p.detach().clone() for name, p in merged.named_parameters()}
    ids = torch.arange(3, 20).unsqueeze(0)
    options = {"max_new_tokens": 8, "return_dict_in_generate": True}
    alone, plain = merged.generate(QUESTIONS, memory, **options), merged(ids).logits
    fingerprint = merged.memory_fingerprint()
    merged.merge_adapters()
    assert merged.memory_fingerprint() == fingerprint
    out = merged.generate(QUESTIONS, memory, **options)
    assert out.answers == alone.answers and out.document_ids == alone.document_ids
    torch.testing.assert_close(out.scores, alone.scores)
    assert all(torch.equal(p, before[name]) for name, p in merged.named_parameters())
    assert torch.equal(merged(ids).logits, plain)


def test_the_copy_is_what_computes(merged):
    memory = merged.build_memory(DOCUMENTS, show_progress=False)
    expected = merged.retrieve(QUESTIONS[0], memory).scores
    merged.merge_adapters()
    for layer in tuner_layers(merged.decoder):
        layer.__dict__[MERGED]["query_reasoner"].zero_()
    assert not torch.allclose(merged.retrieve(QUESTIONS[0], memory).scores, expected)
    merged.unmerge_adapters()
    assert torch.equal(merged.retrieve(QUESTIONS[0], memory).scores, expected)


def test_nested_wearing_takes_the_copies_off_and_on(merged):
    merged.merge_adapters()
    layer = next(tuner_layers(merged.decoder))
    own = layer.base_layer.weight.detach().clone()
    copies = layer.__dict__[MERGED]
    with torch.no_grad(), wearing(merged.decoder, "generator"):
        assert layer.merged and torch.equal(layer.base_layer.weight, copies["generator"])
        with wearing(merged.decoder, "compressor"):
            assert not layer.merged and torch.equal(layer.base_layer.weight, own)
        with wearing(merged.decoder, "query_reasoner"):
            assert torch.equal(layer.base_layer.weight, copies["query_reasoner"])
        assert worn_adapters(merged.decoder) == ["generator"]
        assert torch.equal(layer.base_layer.weight, copies["generator"])
    assert not layer.merged and torch.equal(layer.base_layer.weight, own)


def test_what_is_saved_beside_an_answer_is_the_base_and_not_its_copy(merged, tmp_path):
    known = merged.memory_fingerprint()
    own = next(tuner_layers(merged.decoder)).base_layer.weight.detach().clone()
    merged.merge_adapters()
    with torch.no_grad(), wearing(merged.decoder, "generator"):
        merged.save_pretrained(tmp_path / "saved")
        merged.memory_tokens.add_(0)  # the fingerprint is to be computed anew
        assert merged.memory_fingerprint() == known
        assert worn_adapters(merged.decoder) == ["generator"]
    again = ClaraForRetrievalGeneration.from_pretrained(tmp_path / "saved")
    assert torch.equal(next(tuner_layers(again.decoder)).base_layer.weight, own)


def test_saving_waits_for_an_answer_that_is_being_written(merged, tmp_path):
    saving = threading.Thread(target=merged.save_pretrained, args=(tmp_path / "saved",))
    with merged.lock:
        saving.start()
        saving.join(0.5)
        assert saving.is_alive() and not list((tmp_path / "saved").glob("*.safetensors"))
    saving.join()
    assert list((tmp_path / "saved").glob("*.safetensors"))


def test_gradients_and_training_mode_go_without_copies(merged):
    merged.merge_adapters()
    layer = next(tuner_layers(merged.decoder))
    with wearing(merged.decoder, "generator"):
        assert not layer.merged
    merged.train()
    with torch.no_grad(), wearing(merged.decoder, "generator"):
        assert not layer.merged


def test_loading_and_training_drop_the_copies(merged):
    merged.merge_adapters()
    copy_adapter(merged.decoder, "compressor", "query_reasoner")
    assert all(layer.__dict__[MERGED].keys() == {"generator"} for layer in tuner_layers(merged.decoder))
    merged.set_trainable(["generator"], memory_tokens=False)
    assert not any(MERGED in layer.__dict__ for layer in tuner_layers(merged.decoder))


def test_a_model_moved_since_is_told_to_merge_again(merged):
    merged.merge_adapters()
    merged.to(torch.bfloat16)
    with pytest.raises(RuntimeError, match="call `merge_adapters` again"):
        merged.retrieve(QUESTIONS[0], merged.build_memory(DOCUMENTS, show_progress=False))
    merged.merge_adapters()
    merged.retrieve(QUESTIONS[0], merged.build_memory(DOCUMENTS, show_progress=False))


def test_what_cannot_be_merged_is_refused(merged):
    with pytest.raises(ValueError, match=r"`adapters` must be some of .*, got \['compressor'\]"):
        merged.merge_adapters(["compressor"])
    with pytest.raises(ValueError, match=r"got \['reader'\]"):
        merged.merge_adapters(["reader"])
    layer = next(tuner_layers(merged.decoder))
    layer.base_layer.weight = torch.nn.Parameter(layer.base_layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="plain linear layers only, got Linear with a weight of torch.int8"):
        merge(tuner_layers(merged.decoder), ["generator"])
    assert not any(MERGED in other.__dict__ for other in tuner_layers(merged.decoder))


def test_a_copy_follows_its_adapter(merged):
    """Weights changed in place, as by an optimizer or a state dict, are merged anew when worn."""
    merged.merge_adapters()
    with torch.no_grad():
        for parameter in adapter_parameters(merged.decoder, ["query_reasoner"]):
            parameter.add_(0.3)
        found = merged.reason(torch.arange(3, 20).unsqueeze(0))
        merged.unmerge_adapters()
        expected = merged.reason(torch.arange(3, 20).unsqueeze(0))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
