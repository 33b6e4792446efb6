"""How sure a mean, or a difference of two means over the same questions, is: bootstrap and permutation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

BLOCK = 2**22  # resampled values held in memory at once


@dataclass(frozen=True)
class Interval:
    """A mean and the confidence interval around it."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Mean of first minus second over the same questions, its interval and its two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of B per-question values with its percentile bootstrap interval (Efron and Tibshirani 1993).

    Args:
        values: one number per question.
        confidence: probability that the interval is to hold, between 0 and 1.
        resamples: number of samples of B questions drawn with replacement.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        ValueError: there are no values, a value is not finite, or `confidence` is not between 0 and 1.
    """
    array = _checked("values", values)
    low, high = _percentile_interval(array, confidence, resamples, seed)
    return Interval(float(array.mean()), low, high)


def paired_bootstrap(
    first: Sequence[float],
    second: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Mean of `first - second` with its percentile bootstrap interval and a paired permutation p-value.

    Args:
        first: one number per question, of one system.
        second: the same questions in the same order, of the other system.
        confidence: of the interval.
        resamples: of the interval and of the test, each.
        seed: of the draws.

    Raises:
        ValueError: the two differ in length, are empty or hold a value that is not finite.
    """
    differences = _differences(first, second)
    low, high = _percentile_interval(differences, confidence, resamples, seed)
    p_value = paired_permutation(first, second, resamples, seed)
    return Comparison(float(differences.mean()), low, high, p_value)


def paired_permutation(
    first: Sequence[float], second: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p-value of the paired sign-flip test (Fisher's randomisation).

    p = (1 + number of sign patterns whose |mean difference| reaches the observed one) / (1 + resamples); if
    the two systems were exchangeable on every question, each difference would be as likely with the other
    sign.
    """
    differences = _differences(first, second)
    observed = abs(differences.sum())
    tolerance = 1e-9 * max(np.abs(differences).sum(), 1.0)
    generator = np.random.default_rng(seed)
    reached = 0
    for size in _blocks(resamples, len(differences)):
        signs = 2.0 * generator.integers(0, 2, size=(size, len(differences))) - 1.0
        reached += int((np.abs(signs @ differences) >= observed - tolerance).sum())
    return (1 + reached) / (1 + resamples)


def _percentile_interval(
    values: np.ndarray, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}.")
    generator = np.random.default_rng(seed)
    draws = (
        values[generator.integers(0, len(values), size=(size, len(values)))].mean(axis=1)
        for size in _blocks(resamples, len(values))
    )
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(np.concatenate(list(draws)), [tail, 100 - tail])
    return float(low), float(high)


def _blocks(resamples: int, width: int) -> Iterator[int]:
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1, got {resamples}.")
    step = max(BLOCK // width, 1)
    for start in range(0, resamples, step):
        yield min(step, resamples - start)


def _differences(first: Sequence[float], second: Sequence[float]) -> np.ndarray:
    if len(first) != len(second):
        raise ValueError(
            f"`first` has {len(first)} values but `second` has {len(second)}: a paired test needs both "
            "systems' values on the same questions."
        )
    return _checked("first", first) - _checked("second", second)


def _checked(name: str, values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"`{name}` must be a non-empty list of numbers, got shape {array.shape}.")
    if not np.isfinite(array).all():
        index = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(
            f"`{name}` holds {array[index]} at index {index}; only finite numbers can be averaged."
        )
    return array
