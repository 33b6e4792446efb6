"""How sure a mean, or a difference of two means over the same questions, is: bootstrap and permutation."""

from collections.abc import Iterator, Sequence

import numpy as np

BLOCK = 2**22  # resampled values held in memory at once
RESAMPLES = 10_000


def bootstrap_interval(
    values: Sequence[float], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, float]:
    """Mean of B per-question values with its 95 % percentile bootstrap interval (Efron and Tibshirani 1993).

    Args:
        values: one number per question.
        resamples: number of samples of B questions drawn with replacement.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        `mean`, `low` and `high`.

    Raises:
        ValueError: there are no values, or a value is not finite.
    """
    array = _checked("values", values)
    generator = np.random.default_rng(seed)
    draws = [
        array[generator.integers(0, len(array), size=(size, len(array)))].mean(axis=1)
        for size in _blocks(resamples, len(array))
    ]
    return percentile_interval(array.mean(), np.concatenate(draws))


def percentile_interval(mean: float, draws: np.ndarray) -> dict[str, float]:
    """A mean with the interval that holds 95 % of the draws: `mean`, `low` and `high`."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def paired_bootstrap(
    first: Sequence[float], second: Sequence[float], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, float]:
    """Mean of `first - second` with its 95 % percentile bootstrap interval and a paired permutation p-value.

    Args:
        first: one number per question, of one system.
        second: the same questions in the same order, of the other system.
        resamples: of the interval and of the test, each.
        seed: of the draws.

    Returns:
        `difference`, `low`, `high` and the two-sided `p_value`.

    Raises:
        ValueError: the two differ in length, are empty or hold a value that is not finite.
    """
    found = bootstrap_interval(_differences(first, second), resamples, seed)
    return {
        "difference": found["mean"],
        "low": found["low"],
        "high": found["high"],
        "p_value": paired_permutation(first, second, resamples, seed),
    }


def paired_permutation(
    first: Sequence[float], second: Sequence[float], resamples: int = RESAMPLES, seed: int = 0
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
