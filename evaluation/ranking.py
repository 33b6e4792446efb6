"""Ranking metrics: the documents found for one question against its positives, as a number between 0 and 1.

`ranked` lists the parent document of each retrieved passage, best first. A long document is stored as several
passages that share a parent: each passage takes a place in the ranking, but a parent that was found already
earns nothing more. Relevance is binary. Every function raises a `ValueError` if there are no positives or
`k` is below 1.
"""

import math
from collections.abc import Hashable, Iterable, Sequence


def recall_at_k(ranked: Sequence[Hashable], positives: Iterable[Hashable], k: int) -> float:
    """Share of the positives among the parents of the first k passages: |top-k ∩ positives| / |positives|."""
    return sum(_gains(ranked, positives, k)) / len(set(positives))


def precision_at_k(ranked: Sequence[Hashable], positives: Iterable[Hashable], k: int) -> float:
    """Positives found in the first k passages over k, also where fewer than k passages were retrieved."""
    return sum(_gains(ranked, positives, k)) / k


def reciprocal_rank(ranked: Sequence[Hashable], positives: Iterable[Hashable], k: int | None = None) -> float:
    """1 / rank of the first positive within the first k passages (all, if `k` is None), 0 if there is none.

    The mean over questions is the MRR.
    """
    gains = _gains(ranked, positives, max(len(ranked), 1) if k is None else k)
    return 1 / (gains.index(1) + 1) if 1 in gains else 0.0


def ndcg_at_k(ranked: Sequence[Hashable], positives: Iterable[Hashable], k: int) -> float:
    """Discounted cumulative gain over the best one possible (Järvelin and Kekäläinen 2002, binary gains).

    DCG@k = sum over ranks i <= k of gain_i / log2(i + 1); the ideal ranking starts with the positives.
    """
    ideal = [1] * min(len(set(positives)), k)
    return _discounted(_gains(ranked, positives, k)) / _discounted(ideal)


def score_ranking(
    ranked: Sequence[Sequence[Hashable]],
    positives: Sequence[Sequence[Hashable]],
    ks: Sequence[int] = (1, 3, 5),
) -> dict[str, list[float]]:
    """Every ranking metric for B questions: one value per question, not averaged.

    Args:
        ranked: B lists of parents, best first.
        positives: B lists of the parents that are relevant.
        ks: cut-offs.

    Returns:
        `recall@k`, `precision@k` and `ndcg@k` for each cut-off and `mrr` over the whole list -> B values.

    Raises:
        ValueError: the lists differ in length, or a question has no positives.
    """
    if len(ranked) != len(positives):
        raise ValueError(f"`ranked` has {len(ranked)} items but `positives` has {len(positives)}.")
    pairs = list(zip(ranked, positives, strict=True))
    metrics = {"recall": recall_at_k, "precision": precision_at_k, "ndcg": ndcg_at_k}
    scores = {
        f"{name}@{k}": [metric(*pair, k) for pair in pairs] for name, metric in metrics.items() for k in ks
    }
    return {**scores, "mrr": [reciprocal_rank(*pair) for pair in pairs]}


def _gains(ranked: Sequence[Hashable], positives: Iterable[Hashable], k: int) -> list[int]:
    """1 at each of the first k ranks where a positive is met for the first time, else 0."""
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}.")
    missing = set(positives)
    if not missing:
        raise ValueError(
            "`positives` is empty: ranking cannot be scored. Leave the question out of the average."
        )
    gains = []
    for parent in ranked[:k]:
        gains.append(int(parent in missing))
        missing.discard(parent)
    return gains


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))
