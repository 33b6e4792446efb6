"""Budgets of a shape small enough to work by hand."""

import pytest
from clara.evaluation.budget import (
    Layout,
    Load,
    Shape,
    activation_bytes,
    compression_flops,
    fits,
    memory_bytes,
    training_bytes,
    training_flops,
)

SHAPE = Shape(base=1000, layer=100, adapter=10, layers=4, width=8, inner=16, vocabulary=50, memory_tokens=2)
LOAD = Load(tokens=6, labels=3)


def test_activations_by_hand():
    # kept 2·4·6·8 = 384; one layer 2·6·(64 + 48) = 1344; logits 2·4·3·50 = 1200
    assert activation_bytes(SHAPE, LOAD) == 384 + 1344 + 1200


def test_replicated_and_sharded_by_hand():
    replicated = training_bytes(SHAPE, LOAD, Layout(4, 1e9, sharded=False))
    assert (replicated["base"], replicated["gathered"], replicated["adapters"]) == (2000, 0, 10 * (32 + 2))
    sharded = training_bytes(SHAPE, LOAD, Layout(4, 1e9, sharded=True))
    assert (sharded["base"], sharded["gathered"], sharded["adapters"]) == (500, 400, 85)
    assert sharded["total"] == 500 + 400 + 85 + 2928
    small = training_bytes(SHAPE, LOAD, Layout(1, 1e9, sharded=False, base_dtype="4-bit"))
    assert small["base"] == 562.5


def test_fits():
    total = training_bytes(SHAPE, LOAD, Layout(1, 0, sharded=False))["total"]
    assert fits(SHAPE, LOAD, Layout(1, total / 0.9 + 1, sharded=False))
    assert not fits(SHAPE, LOAD, Layout(1, total / 0.9 - 1, sharded=False))


def test_flops_and_memory_by_hand():
    assert training_flops(SHAPE, 7) == 28_000
    assert compression_flops(SHAPE, 10) == pytest.approx(2 * 1000 * 12)
    assert memory_bytes(SHAPE) == 2 * 2 * 8
