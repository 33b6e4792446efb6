"""Required work, counted by hand."""

import pytest
import torch
from clara.evaluation.speed.roofline import Roof, Shape, Work, measure_roof, shape_of

SHAPE = Shape(body=100, head=10, layers=2, queries=4, keys=2, itemsize=2)


def test_reading_costs_two_operations_a_weight_and_the_causal_half_of_attention():
    work = SHAPE.read([3, 2], logits=1)
    pairs = (1 + 2 + 3) + (1 + 2)
    assert work.flops == 2 * 100 * 5 + 4 * 2 * 4 * pairs + 2 * 10
    assert work.bytes == 110 * 2


def test_reading_without_logits_leaves_the_head_alone():
    work = SHAPE.read([1], logits=0)
    assert work.flops == 2 * 100 + 4 * 2 * 4
    assert work.bytes == 200


def test_writing_reads_all_weights_and_the_kept_keys_and_values_each_step():
    first, second = SHAPE.write([3, 2], steps=2)
    assert first.flops == 2 * 110 * 2 + 4 * 2 * 4 * (4 + 3)
    assert first.bytes == (110 + 2 * 2 * 2 * 7) * 2
    assert second.bytes - first.bytes == 2 * 2 * 2 * 2 * 2


def test_a_pass_is_bound_by_operations_or_by_bytes():
    roof = Roof("float32", 8, flops=10.0, bandwidth=100.0)
    assert roof.seconds([Work(20.0, 100.0), Work(1.0, 300.0)]) == 2.0 + 3.0


def test_counts_a_models_base_without_adapters(shared_model):
    shape = shape_of(shared_model)
    width, inner, keys, layers = 32, 48, 16, 2
    layer = 2 * width * width + 2 * width * keys + 3 * width * inner + 2 * width
    assert shape.body == layers * layer + width
    assert shape.head == 512 * width
    assert (shape.layers, shape.queries, shape.keys, shape.itemsize) == (2, 32, 16, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measures_both_peaks(dtype):
    roof = measure_roof(torch.device("cpu"), dtype, matrix=32)
    assert roof.flops > 0 and roof.bandwidth > 0
    assert roof.as_dict()["dtype"] == str(dtype).removeprefix("torch.")
