"""What trains in each stage, and where it starts from."""

import pytest
import torch
from clara.adapters_clara import adapter_parameters, adapter_state
from clara.train.stages import (
    STAGES,
    adapter_gradient_norms,
    get_stage,
    prepare_stage,
)
from conftest import make_model
from training_helpers import make_trainer, parameters

LAYERS = [f"decoder.model.layers.{i}" for i in range(2)]
LINEARS = [
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
]


def trainable_names(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def lora_names(*adapters):
    return {
        f"{layer}.{linear}.lora_{side}.{adapter}.weight"
        for layer in LAYERS
        for linear in LINEARS
        for side in "AB"
        for adapter in adapters
    }


EXPECTED = {
    "pretraining": lora_names("compressor", "generator") | {"memory_tokens", "memory_gain"},
    "instruction_tuning": lora_names("compressor", "generator") | {"memory_tokens", "memory_gain"},
    "end_to_end": lora_names("query_reasoner", "generator"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_exactly_these_parameters_train(base, stage):
    model = make_model(base, connector="rms")
    model.requires_grad_(True)
    prepare_stage(model, stage)
    assert set(trainable_names(model)) == EXPECTED[stage]


@pytest.mark.parametrize("stage", STAGES)
def test_each_of_them_changes_and_nothing_else(base, stage, tmp_path):
    model = make_model(base, connector="rms")
    trainer = make_trainer(model, tmp_path, stage)
    before = parameters(model)
    trainer.train()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == EXPECTED[stage]


def test_frozen_adapters_do_not_train(base):
    model = make_model(base, connector="rms")
    prepare_stage(model, "instruction_tuning", frozen=["compressor"])
    assert set(trainable_names(model)) == lora_names("generator") | {"memory_gain"}
    prepare_stage(model, "end_to_end", frozen=["query_reasoner"])
    assert set(trainable_names(model)) == lora_names("generator")
    for frozen in (["compressor"], ["query_reasoner", "generator"]):
        with pytest.raises(ValueError, match="`frozen` must name some but not all"):
            prepare_stage(model, "end_to_end", frozen=frozen)


def test_mean_pooling_has_no_memory_tokens_to_train(base):
    model = make_model(base, pooling="mean")
    prepare_stage(model, "pretraining")
    assert set(trainable_names(model)) == lora_names("compressor", "generator")


def test_the_papers_numbers():
    rows = {name: (s.learning_rate, s.batch_size, s.alignment_weight) for name, s in STAGES.items()}
    assert rows == {
        "pretraining": (1e-4, 128, 0.1),
        "instruction_tuning": (1e-4, 128, 0.1),
        "end_to_end": (5e-6, 32, 0.0),
    }


def equal(model, first, second):
    one, two = adapter_state(model.decoder, first), adapter_state(model.decoder, second)
    return all(torch.equal(one[key], two[key]) for key in one)


def test_the_query_reasoner_starts_as_the_compressor(model):
    assert not equal(model, "query_reasoner", "compressor")
    before = {key: t.clone() for key, t in adapter_state(model.decoder, "compressor").items()}
    prepare_stage(model, "end_to_end")
    assert equal(model, "query_reasoner", "compressor")
    after = adapter_state(model.decoder, "compressor")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_adapters_are_kept_unless_the_stage_says_otherwise(model):
    before = parameters(model)
    prepare_stage(model, "instruction_tuning")
    prepare_stage(model, "end_to_end", {"query_reasoner": "kept"})
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_fresh_generator_adds_nothing_and_follows_its_seed(base):
    first, again, other = (make_model(base) for _ in range(3))
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        torch.manual_seed(id(model) % 1000)
        prepare_stage(model, "instruction_tuning", {"generator": "fresh"}, seed)
    generators = [adapter_state(model.decoder, "generator") for model in (first, again, other)]
    for key, tensor in generators[0].items():
        assert torch.equal(tensor, generators[1][key])
        assert (tensor == 0).all() if "lora_B" in key else not torch.equal(tensor, generators[2][key])
    assert any((p != 0).any() for p in adapter_parameters(first.decoder, ["compressor"]))


@pytest.mark.parametrize("start", ["pretraining", "instruction_tuning"])
def test_end_to_end_starts_from_either_earlier_stage(model, tmp_path, start):
    from clara.modeling_clara import ClaraForRetrievalGeneration

    trainer = make_trainer(model, tmp_path / "first", start)
    trainer.train()
    trainer.save_final(tmp_path / "final")
    loaded = ClaraForRetrievalGeneration.from_pretrained(tmp_path / "final")
    make_trainer(loaded, tmp_path / "second", "end_to_end")
    assert equal(loaded, "query_reasoner", "compressor")
    for name in ("compressor", "generator"):
        trained, kept = adapter_state(model.decoder, name), adapter_state(loaded.decoder, name)
        assert all(torch.equal(trained[key], kept[key]) for key in trained)
    assert torch.equal(loaded.memory_tokens, model.memory_tokens)


def test_unknown_stages_and_starts_are_refused(model):
    with pytest.raises(ValueError, match="`stage` must be one of .*end_to_end.*'sft'"):
        get_stage("sft")
    with pytest.raises(ValueError, match="`starts`.*'generator': 'random'"):
        prepare_stage(model, "pretraining", {"generator": "random"})
    with pytest.raises(ValueError, match="`starts`.*'query_reasoner'"):
        prepare_stage(model, "pretraining", {"query_reasoner": "fresh"})


def test_a_model_without_an_adapter_of_the_stage_is_refused(base):
    model = make_model(base)
    del model.decoder.peft_config["query_reasoner"]
    prepare_stage(model, "pretraining")
    with pytest.raises(ValueError, match=r"'end_to_end' needs the adapters \['query_reasoner'\]"):
        prepare_stage(model, "end_to_end")


def test_a_checkpoint_without_an_adapter_of_the_stage_is_refused(checkpoint, tmp_path):
    import shutil

    from clara.modeling_clara import ClaraForRetrievalGeneration

    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    shutil.rmtree(folder / "query_reasoner")
    with pytest.raises(FileNotFoundError, match="lacks its query_reasoner adapter"):
        ClaraForRetrievalGeneration.from_pretrained(folder)


def test_gradient_norms_by_hand(model):
    prepare_stage(model, "pretraining")
    first, second, *_ = adapter_parameters(model.decoder, ["generator"])
    first.grad, second.grad = torch.zeros_like(first), torch.zeros_like(second)
    first.grad[0, 0], second.grad[0, 0] = 3.0, 4.0
    assert adapter_gradient_norms(model) == {"generator": 5.0}
