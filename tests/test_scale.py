"""Counts on the meta device, the trend on tiny models, the page."""

import argparse
import json

import pytest
from clara.evaluation.experiments import scale as experiment
from transformers import LlamaConfig


def options(*words):
    parser = argparse.ArgumentParser()
    experiment.add_arguments(parser)
    return parser.parse_args(words)


def test_counts_of_a_small_shape_by_hand():
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    shape = experiment.count_shape(config, 16)
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
    assert shape.layer == layer
    assert shape.base == 2 * 100 * 32 + 2 * layer + 32
    # rank 16: r·(in + out) of q, o (64 each), k, v (48 each), gate, up, down (80 each)
    assert shape.adapter == 2 * 16 * (2 * 64 + 2 * 48 + 3 * 80)
    assert shape.memory_tokens == 16


@pytest.mark.slow
def test_large_shapes_have_the_published_sizes():
    shapes = dict(experiment.large_shapes(16))
    assert shapes["Llama-2-70B"].base == 68_976_648_192
    assert shapes["Mistral-Large (123B)"].base == pytest.approx(122.6e9, rel=0.001)


def test_exponent():
    trend = [{"base": n, "seconds": 3 * n**1.5} for n in (10, 100, 1000)]
    assert experiment.exponent(trend, "seconds") == pytest.approx(1.5)


def test_the_whole_experiment(monkeypatch, tmp_path):
    small = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    monkeypatch.setattr(
        experiment, "large_shapes", lambda rate: [("Llama-2-70B", experiment.count_shape(small, rate))]
    )
    result = experiment.measure(options("--widths", "32", "64", "--repeats", "1"))
    assert [row["width"] for row in result["trend"]] == [32, 64]
    assert all(row["compress_seconds"] > 0 for row in result["trend"])
    assert result["shapes"]["Llama-2-70B"]["layouts"]["8 x 80 GB, sharded"]["fits"]
    page = experiment.render(json.loads(json.dumps(result)))
    assert "| Llama-2-70B | 8 x 80 GB, sharded |" in page
    assert "Measured on this CPU" in page
    assert "No trend was measured" in experiment.render({**result, "trend": []})
    pytest.importorskip("matplotlib")
    experiment.plot(result, tmp_path / "x.png")
    assert (tmp_path / "x.png").is_file()
