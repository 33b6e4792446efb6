"""Bootstrap and permutation against exact values and scipy."""

import itertools

import numpy as np
import pytest
from clara.evaluation.statistics import bootstrap_interval, paired_bootstrap, paired_permutation


def test_interval_of_constant_values_is_a_point():
    interval = bootstrap_interval([0.5] * 10)
    assert interval == {"mean": 0.5, "low": 0.5, "high": 0.5}


def test_interval_is_close_to_the_normal_one():
    values = [1.0] * 300 + [0.0] * 700  # standard error sqrt(.3 * .7 / 1000) = 0.01449
    interval = bootstrap_interval(values, seed=3)
    assert interval["mean"] == pytest.approx(0.3)
    assert interval["low"] == pytest.approx(0.3 - 1.96 * 0.01449, abs=0.002)
    assert interval["high"] == pytest.approx(0.3 + 1.96 * 0.01449, abs=0.002)


def test_same_seed_same_interval_even_in_blocks(monkeypatch):
    values = list(np.random.default_rng(0).random(50))
    whole = bootstrap_interval(values, resamples=500, seed=1)
    assert bootstrap_interval(values, resamples=500, seed=1) == whole
    assert bootstrap_interval(values, resamples=500, seed=2) != whole
    monkeypatch.setattr("clara.evaluation.statistics.BLOCK", 50 * 7)
    blocks = bootstrap_interval(values, resamples=500, seed=1)
    assert blocks["low"] == pytest.approx(whole["low"], abs=0.02)


def test_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(5)
    first, second = generator.random(80), generator.random(80) - 0.05
    ours = paired_bootstrap(first, second, resamples=20_000)
    theirs = stats.bootstrap(
        (first - second,), np.mean, method="percentile", n_resamples=20_000, batch=1000, rng=generator
    ).confidence_interval
    assert ours["low"] == pytest.approx(theirs.low, abs=0.005)
    assert ours["high"] == pytest.approx(theirs.high, abs=0.005)


def test_permutation_against_enumeration():
    first, second = [3.0, 2.0, 5.0, 1.0, 4.0], [1.0, 2.5, 2.0, 0.0, 3.0]
    differences = np.subtract(first, second)
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=5)]
    exact = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    assert paired_permutation(first, second, resamples=40_000) == pytest.approx(exact, abs=0.01)


def test_permutation_of_equal_systems_is_one_and_of_clear_ones_is_small():
    assert paired_permutation([0.0, 1.0, 1.0], [0.0, 1.0, 1.0], resamples=100) == 1
    comparison = paired_bootstrap([1.0] * 40, [0.0] * 40, resamples=1000)
    assert comparison["p_value"] == pytest.approx(1 / 1001)
    assert [comparison[name] for name in ("difference", "low", "high")] == [1, 1, 1]


def test_bad_input():
    with pytest.raises(ValueError, match="non-empty"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="nan at index 1"):
        bootstrap_interval([1.0, float("nan")])
    with pytest.raises(ValueError, match="`resamples` must be at least 1, got 0"):
        bootstrap_interval([1.0], resamples=0)
    with pytest.raises(ValueError, match="`first` has 1 values but `second` has 2"):
        paired_permutation([1.0], [1.0, 2.0])


def test_a_p_value_is_drawn_with_the_given_seed():
    first, second = [0.9, 0.8, 1.0, 0.3, 1.0, 0.1, 1.0], [0.1, 0.2, 1.0, 0.6, 0.0, 0.5, 0.4]
    draws = [paired_permutation(first, second, 50, seed) for seed in range(6)]
    assert len(set(draws)) > 1
    assert draws == [paired_permutation(first, second, 50, seed) for seed in range(6)]
    assert draws == [paired_bootstrap(first, second, 50, seed)["p_value"] for seed in range(6)]
    assert paired_bootstrap(first, second, 60)["p_value"] == paired_permutation(first, second, 60)
