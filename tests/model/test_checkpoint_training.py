"""What trains: exactly what is named, never the base; checkpointing only in the form that is right."""

import pytest
from clara.adapters_clara import adapter_parameters
from clara.configuration_clara import ADAPTERS
from conftest import make_model


@pytest.mark.parametrize("adapters", [(), ("compressor",), ("query_reasoner", "generator"), ADAPTERS])
@pytest.mark.parametrize("tokens", [False, True])
def test_exactly_what_is_named_trains(base, adapters, tokens):
    model = make_model(base, connector="rms")
    model.set_trainable(adapters, memory_tokens=tokens, connector=not tokens)
    expected = {id(p) for p in adapter_parameters(model.decoder, adapters)}
    expected |= {id(model.memory_tokens)} if tokens else {id(model.memory_gain)}
    assert {id(parameter) for parameter in model.parameters() if parameter.requires_grad} == expected


def test_training_an_unknown_adapter_raises(shared_model):
    with pytest.raises(ValueError, match=r"`adapters` names \['encoder'\]"):
        shared_model.set_trainable(["encoder"], memory_tokens=False)


def test_the_base_never_trains(model):
    model.requires_grad_(True)
    model.set_trainable(ADAPTERS, memory_tokens=True)
    training = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert training == {name for name, _ in model.named_parameters() if "lora_" in name} | {"memory_tokens"}


def test_reentrant_checkpointing_is_refused(model):
    with pytest.raises(ValueError, match="`use_reentrant=True` gives silently wrong gradients"):
        model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match="`use_reentrant=True`"):
        model.gradient_checkpointing_enable({"use_reentrant": True})
    assert not model.is_activation_checkpointing
