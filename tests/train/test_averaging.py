"""Adapters between two checkpoints."""

import pytest
import torch
from clara.adapters_clara import adapter_parameters, adapter_state
from clara.commands.main import main
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.train.averaging import average_adapters
from conftest import make_model


def filled(base, value, **fields):
    """A model whose query reasoner and generator hold one number; its compressor is always the same."""
    torch.manual_seed(0)
    model = make_model(base, **fields).eval()
    with torch.no_grad():
        for parameter in adapter_parameters(model.decoder, ["query_reasoner", "generator"]):
            parameter.fill_(value)
    return model


def values(model, name):
    return {
        number
        for tensor in adapter_state(model.decoder, name).values()
        for number in tensor.unique().tolist()
    }


def test_only_the_named_adapters_move(base):
    model, other = filled(base, 1.0), filled(base, 3.0)
    before = model.memory_fingerprint()
    average_adapters(model, other, 0.25)
    assert values(model, "query_reasoner") == {1.5} and values(model, "generator") == {1.0}
    assert values(other, "query_reasoner") == {3.0} and model.memory_fingerprint() == before
    average_adapters(model, other, 1.0, ["generator", "query_reasoner"])
    assert values(model, "query_reasoner") == values(model, "generator") == {3.0}


def test_with_the_compressor_memory_tokens_and_connector_move_too(base):
    model, other = filled(base, 1.0, connector="rms"), filled(base, 3.0, connector="rms")
    with torch.no_grad():
        for one, value in ((model, 1.0), (other, 5.0)):
            for parameter in [
                *adapter_parameters(one.decoder, ["compressor"]),
                *one.own_parameters().values(),
            ]:
                parameter.fill_(value)
    before = model.memory_fingerprint()
    average_adapters(model, other, 0.25, ["compressor", "query_reasoner", "generator"])
    assert values(model, "compressor") == {2.0} and values(model, "generator") == {1.5}
    assert [p.unique().tolist() for p in model.own_parameters().values()] == [[2.0], [2.0]]
    assert model.memory_fingerprint() != before


def test_what_is_refused_changes_nothing(base):
    model, other = filled(base, 1.0), filled(base, 3.0)
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`weight` must be from 0 to 1"):
            average_adapters(model, other, weight)
    for names in (["decoder"], []):
        with pytest.raises(ValueError, match="`names` must be of compressor, query_reasoner, generator"):
            average_adapters(model, other, 0.5, names)
    for names in (["generator"], ["compressor", "generator"]):
        with pytest.raises(ValueError, match="`other` differs in num_memory_tokens"):
            average_adapters(model, filled(base, 3.0, compression_rate=8), 0.5, names)
    stranger = filled(base, 3.0)
    with torch.no_grad():
        stranger.memory_tokens.add_(1.0)
    with pytest.raises(ValueError, match="another compressor or base, .* average all three"):
        average_adapters(model, stranger, 0.5, ["generator"])
    wider = filled(base, 3.0, lora_r=8)
    wider.memory_fingerprint = model.memory_fingerprint
    with pytest.raises(ValueError, match="'query_reasoner' does not fit that of `other`: .* misshapen"):
        average_adapters(model, wider, 0.5)
    assert values(model, "query_reasoner") == {1.0}


def test_the_command_writes_a_checkpoint_between_two(base, tmp_path, capsys):
    for name, value in (("one", 1.0), ("two", 2.0)):
        filled(base, value).save_pretrained(tmp_path / name, save_base=False)
    words = ["average", str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(tmp_path / "mean")]
    assert main(words) == 0
    mean = ClaraForRetrievalGeneration.from_pretrained(tmp_path / "mean")
    assert values(mean, "query_reasoner") == {1.5} and values(mean, "generator") == {1.0}
    assert mean.processor is not None and "query_reasoner moved 0.5 of the way" in capsys.readouterr().out
    assert main(words) == 2 and "is there already" in capsys.readouterr().err
