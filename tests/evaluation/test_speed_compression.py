"""All variants of compression make the same memories; what they compute beside differs."""

import pytest
import torch
from clara.evaluation.speed.compression import (
    REFERENCE,
    VARIANTS,
    burdened,
    compress_all,
    compression,
    encode,
    widen,
)
from clara.evaluation.speed.workload import sample_passages
from speed_helpers import TINY


@pytest.fixture(scope="module")
def texts(shared_model):
    return sample_passages(shared_model.processor.tokenizer, TINY.passages, TINY.passage_tokens)


def test_every_variant_makes_the_same_memories(shared_model, texts):
    short = encode(shared_model, texts, TINY.batch_size)
    wide = [widen(shared_model, batch, TINY.padded) for batch in short]
    plain = compress_all(shared_model, short, heads=False, states=False)
    assert [len(memory.counts) for memory in plain] == [2, 2, 1]
    for heads, states, padded in VARIANTS.values():
        found = compress_all(shared_model, wide if padded else short, heads, states)
        for memory, expected in zip(found, plain, strict=True):
            torch.testing.assert_close(memory.values, expected.values, atol=1e-4, rtol=1e-4)


def test_batches_are_padded_to_their_longest_and_widened_on_the_left(shared_model, texts):
    batches = encode(shared_model, texts, TINY.batch_size)
    assert all(mask.bool().all(dim=-1).any() for _, mask in batches)
    ids, mask = widen(shared_model, batches[0], TINY.padded)
    more = TINY.padded - batches[0][0].shape[1]
    assert ids.shape == mask.shape == (2, TINY.padded) and more > 0
    assert not mask[:, :more].any()
    assert torch.equal(ids[:, more:], batches[0][0])


def test_burdens_are_really_carried_and_taken_off(shared_model, texts):
    decoder, seen = shared_model.decoder, []
    batch = encode(shared_model, texts[:1], 1)
    body = decoder.base_model.register_forward_hook(lambda *call: seen.append(call[-1].hidden_states))
    head = decoder.get_output_embeddings().register_forward_hook(lambda *call: seen.append(call[-1].shape))
    compress_all(shared_model, batch, heads=True, states=True)
    compress_all(shared_model, batch, heads=False, states=False)
    body.remove()
    head.remove()
    length = batch[0][0].shape[1] + shared_model.config.num_memory_tokens
    states = next(item for item in seen if isinstance(item, tuple) and not isinstance(item, torch.Size))
    assert len(states) == 2 + 1
    assert [item for item in seen if isinstance(item, torch.Size)] == [(1, length, 512)]
    assert seen[-1] is None


def test_burdens_are_taken_off_after_an_error(shared_model):
    with pytest.raises(RuntimeError, match="stop"), burdened(shared_model.decoder, True, True):
        raise RuntimeError("stop")
    assert not shared_model.decoder.base_model._forward_hooks
    assert not shared_model.decoder.base_model._forward_pre_hooks


def test_reports_every_factor_against_ours(shared_model, texts):
    section = compression(shared_model, TINY).section(2, shared_model.device)
    assert [item["name"] for item in section["variants"]] == list(VARIANTS)
    assert all(len(item["seconds"]) == 2 for item in section["variants"])
    rates = section["variants"][0]["rates"]
    tokens = rates["tokens"] / rates["passages"]
    assert TINY.passage_tokens[0] <= tokens <= TINY.passage_tokens[1]
    total, *alone = section["ratios"]
    assert total["name"].startswith(REFERENCE) and total["needed"] == 1.3 and len(alone) == 3
    assert all(item["needed"] is None for item in alone)
    assert section["facts"]["bytes a document"] == 4 * 32 * 4
