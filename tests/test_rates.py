"""A model at other rates: what it makes, and that it is left as it was."""

import pytest
import torch
from clara.evaluation.rates import at_rate
from conftest import DOCUMENTS, make_model


def compressed(model):
    return model.build_memory(DOCUMENTS[:2], show_progress=False)[:]


def test_trained_memory_tokens_give_their_first(shared_model):
    whole = compressed(shared_model)
    with at_rate(shared_model, 2):
        part = compressed(shared_model)
        assert shared_model.processor.encode_prompts(["who"], 1)["input_ids"].lt(0).sum() == 2
    torch.testing.assert_close(part, whole[:, :2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(compressed(shared_model), whole)


def test_mean_pooling_makes_any_number(base):
    model = make_model(base, pooling="mean")
    whole = compressed(model)
    with at_rate(model, 8):
        assert compressed(model).shape[1] == 8
    with at_rate(model, 1):
        one = compressed(model)
        assert one.shape[1] == 1
    lengths = model.processor.encode_documents(DOCUMENTS[:2])["attention_mask"].sum(-1)
    assert lengths.min() > 4
    torch.testing.assert_close(compressed(model), whole)


@pytest.mark.parametrize("size", [0, 3, 8, 128])
def test_impossible_rates_leave_the_model_alone(shared_model, size):
    with pytest.raises(ValueError, match="`num_memory_tokens` must divide"), at_rate(shared_model, size):
        pass
    assert shared_model.config.num_memory_tokens == shared_model.processor.num_memory_tokens == 4


def test_an_error_inside_leaves_the_model_as_it_was(shared_model):
    with pytest.raises(RuntimeError), at_rate(shared_model, 1):
        raise RuntimeError
    assert shared_model.config.num_memory_tokens == 4
    assert len(shared_model.memory_tokens) == 4


def test_a_rate_has_a_fingerprint_of_its_own(model):
    own = model.memory_fingerprint()
    with at_rate(model, 2):
        assert model.memory_fingerprint() != own
    assert model.memory_fingerprint() == own
