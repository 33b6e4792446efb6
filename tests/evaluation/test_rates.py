"""Memories at larger rates: the mean of neighbours, the same search vectors."""

import pytest
import torch
from clara.evaluation.rates import coarser, rate_factor
from memory_helpers import make_memory


def test_neighbours_are_averaged_by_hand():
    memory = make_memory(3)  # of 1, 2 and 3 vectors
    half = coarser(memory, 2)
    assert half.offsets.tolist() == [0, 1, 2, 4]
    rows = memory.gather([0, 1, 2])
    expected = [rows[0], rows[1].mean(0, keepdim=True), torch.stack([rows[2][:2].mean(0), rows[2][2]])]
    for found, wanted in zip(half.gather([0, 1, 2]), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert torch.equal(half.vectors, memory.vectors)
    assert half.document_ids == memory.document_ids and half.metadata == memory.metadata
    assert half.fingerprint == memory.fingerprint and half.base == memory.base


def test_the_format_stays_and_factor_one_changes_nothing():
    memory = make_memory(3, dtype=torch.bfloat16)
    assert coarser(memory, 1) is memory
    assert coarser(memory, 3).dtype == "bfloat16"
    assert coarser(memory, 3).offsets.tolist() == [0, 1, 2, 3]


def test_rates_are_multiples_of_the_models(shared_model):
    own = shared_model.config.compression_rate
    assert rate_factor(shared_model.config, own) == 1
    assert rate_factor(shared_model.config, 3 * own) == 3
    for wrong in (0, own + 1, own // 2):
        with pytest.raises(ValueError, match=f"`rate` must be a multiple .* {own}, got {wrong}"):
            rate_factor(shared_model.config, wrong)
