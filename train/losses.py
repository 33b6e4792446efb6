"""Losses of training beside the model's own: the supervised contrastive loss of retrieval."""

import torch
from torch import Tensor


def contrastive_loss(
    scores: Tensor, positives: Tensor, temperature: float = 0.02, mask: Tensor | None = None
) -> Tensor:
    """Multi-positive softmax loss of retrieval, the paper's supervised baseline ("Sup", table 7).

    The loss of a question is logsumexp(all / t) - logsumexp(positives / t), that is minus the logarithm of
    the probability that a softmax over its candidates gives to the positive ones. Questions without
    positives are left out.

    Args:
        scores: (B, N) cosines.
        positives: (B, N) bool, True at gold documents.
        temperature: t.
        mask: (B, N) bool, False where a pool is padded.

    Returns:
        Scalar mean over the questions that have positives; 0 if none has.
    """
    logits = scores.float() / temperature
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    counted = positives.any(dim=-1)
    if not counted.any():
        return scores.sum() * 0.0
    logits, positives = logits[counted], positives[counted]
    gold = logits.masked_fill(~positives, float("-inf"))
    return (torch.logsumexp(logits, dim=-1) - torch.logsumexp(gold, dim=-1)).mean()
