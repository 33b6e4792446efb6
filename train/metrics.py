"""Running means of what a trainer logs, and recall of a retrieval step."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

RECALL_AT = (1, 3, 5)
Sums = dict[str, tuple[float, float]]


class RunningMeans:
    """Weighted means of named values between two logs."""

    def __init__(self) -> None:
        self._sums: Sums = {}

    def add(self, values: Mapping[str, float], weight: float = 1.0) -> None:
        """Adds values that are means over `weight` items."""
        for name, value in values.items():
            total, items = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (total + float(value) * weight, items + weight)

    def pop(self, gather: Callable[[list[Sums]], list[Sums]] = list) -> dict[str, float]:
        """The means since the last call.

        Args:
            gather: Joins the lists of all processes, as `accelerate.utils.gather_object` does.
        """
        joined = RunningMeans()
        for sums in gather([self._sums]):
            for name, (total, items) in sums.items():
                joined.add({name: total / items}, items)
        self._sums = {}
        return {name: total / items for name, (total, items) in joined._sums.items()}


@torch.no_grad()
def recall(scores: Tensor, positives: Tensor, mask: Tensor | None = None) -> tuple[dict[str, float], int]:
    """Mean share of a question's positives among its k best candidates, for k = 1, 3, 5 (paper section 5).

    Args:
        scores: (B, N).
        positives: (B, N) bool.
        mask: (B, N) bool, False where a pool is padded.

    Returns:
        `recall@k` means and the number of questions they are over: those that have positives.
    """
    counted = positives.any(dim=-1)
    total = int(counted.sum())
    if not total:
        return {}, 0
    ranked = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
    order = ranked[counted].argsort(dim=-1, descending=True, stable=True)
    hits = positives[counted].gather(-1, order).float()
    gold = hits.sum(dim=-1)
    return {f"recall@{k}": float((hits[:, :k].sum(dim=-1) / gold).mean()) for k in RECALL_AT}, total
