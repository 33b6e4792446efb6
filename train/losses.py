"""Losses of training beside the model's own: contrastive retrieval, and retrieval as a teacher does it."""

import torch
from torch import Tensor
from torch.nn import functional

POSITIVES = ("any", "each")
CANDIDATES = ("pool", "corpus")


def contrastive_loss(
    scores: Tensor,
    positives: Tensor,
    temperature: float = 0.02,
    mask: Tensor | None = None,
    wanted: str = "any",
) -> Tensor:
    """Softmax loss of retrieval over a question's candidates; questions without positives are left out.

    With "any" it is the paper's supervised baseline ("Sup", table 7): logsumexp(all / t) less
    logsumexp(positives / t), minus the logarithm of the probability of the positives together, to which one
    near positive is enough. With "each" it is the mean over the positives of the same loss against the
    negatives alone, as questions need that are answered from several documents.

    Args:
        scores: (B, N) cosines.
        positives: (B, N) bool, True at gold documents.
        temperature: t.
        mask: (B, N) bool, False where a pool is padded.
        wanted: One of `POSITIVES`.

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
    if wanted == "any":
        gold = logits.masked_fill(~positives, float("-inf"))
        return (torch.logsumexp(logits, dim=-1) - torch.logsumexp(gold, dim=-1)).mean()
    others = torch.logsumexp(logits.masked_fill(positives, float("-inf")), dim=-1, keepdim=True)
    losses = torch.logaddexp(logits, others) - logits
    return (losses.masked_fill(~positives, 0.0).sum(dim=-1) / positives.sum(dim=-1)).mean()


def retrieval_distillation(
    scores: Tensor, teacher_scores: Tensor, temperature: float = 0.02, teacher_temperature: float = 0.05
) -> Tensor:
    """KL divergence of the student's distribution over passages from a teacher's (TAS-B, arXiv 2104.06967).

    Args:
        scores: (B, N) the student's cosines.
        teacher_scores: (B, N) the teacher's.
        temperature: Of the student.
        teacher_temperature: Of the teacher; 0.05 is that at which sentence-transformers' models are trained.

    Returns:
        Scalar mean over the questions, in nats.
    """
    student = functional.log_softmax(scores.float() / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_scores.float() / teacher_temperature, dim=-1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def corpus_positives(indices: Tensor, positives: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, P) bool: the positives (B, N) of pools at their places (B, N) in the whole corpus."""
    found = torch.zeros(shape, dtype=torch.bool, device=positives.device)
    rows, columns = positives.nonzero(as_tuple=True)
    found[rows, indices[rows, columns]] = True
    return found
