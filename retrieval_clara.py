"""Retrieval as tensor maths without state: cosine scores, the differentiable top-k, gathering.

Letters of the shapes: B questions, N documents, K chosen, M memory tokens, H hidden width.
"""

import torch
from torch import Tensor
from torch.nn import functional


def cosine_scores(query: Tensor, memory: Tensor) -> Tensor:
    """Cosine of flattened memories, in float32 whatever the inputs are (paper section 3.2).

    Args:
        query: (B, M, H) memories of the questions.
        memory: (N, M, H) one pool for all questions, or (B, N, M, H) a pool per question.

    Returns:
        (B, N) float32 scores in [-1, 1]; a zero memory scores 0.

    Raises:
        ValueError: If M or H of the two differ.
    """
    if query.shape[-2:] != memory.shape[-2:]:
        raise ValueError(
            f"`query` and `memory` must agree in (M, H), got {tuple(query.shape[-2:])} and "
            f"{tuple(memory.shape[-2:])}: both must come from one model at one compression rate."
        )
    query = functional.normalize(query.float().flatten(-2), dim=-1)
    memory = functional.normalize(memory.float().flatten(-2), dim=-1)
    if memory.dim() == 2:
        return query @ memory.T
    return torch.einsum("bd,bnd->bn", query, memory)


def soft_topk(
    scores: Tensor,
    k: int,
    temperature: float = 0.02,
    estimator: str = "straight_through",
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Differentiable top-k: a hard choice forward, the softmax's gradient backward (paper algorithm 1).

    Slot j takes the best document not yet taken. Taken documents are masked with -inf, the limit of the
    paper's log(mask + eps): with any eps > 0 a taken document that leads by more than -temperature * log(eps)
    keeps the slot's softmax, and the document really chosen gets no gradient.

    Args:
        scores: (B, N) scores.
        k: Number of slots K.
        temperature: Divides the scores before the softmax.
        estimator: "straight_through", or "gumbel": Gumbel noise is added to the scaled scores, so the choice
            is a sample without replacement in proportion to their exponentials.
        mask: (B, N) bool, True where a document may be chosen (ragged candidate lists). None: everywhere.

    Returns:
        (B, K, N) weights, whose forward value is exactly one-hot, and (B, K) indices of the chosen documents.

    Raises:
        ValueError: If k is below 1 or above a row's number of candidates, the temperature is not positive, or
            the estimator is unknown.
    """
    _check_topk(scores, k, temperature, mask)
    logits = scores.float() / temperature
    if estimator == "gumbel":
        logits = logits - torch.empty_like(logits).exponential_().log()
    elif estimator != "straight_through":
        raise ValueError(f"`estimator` must be 'straight_through' or 'gumbel', got {estimator!r}.")
    taken = torch.zeros_like(logits, dtype=torch.bool) if mask is None else ~mask
    weights, indices = [], []
    for _ in range(k):
        open_logits = logits.masked_fill(taken, float("-inf"))
        index = open_logits.argmax(dim=-1, keepdim=True)
        soft = open_logits.softmax(dim=-1)
        hard = torch.zeros_like(soft).scatter(-1, index, 1.0)
        weights.append(hard + (soft - soft.detach()))
        indices.append(index)
        taken = taken.scatter(-1, index, True)
    return torch.stack(weights, dim=1), torch.cat(indices, dim=1)


def _check_topk(scores: Tensor, k: int, temperature: float, mask: Tensor | None) -> None:
    fewest = scores.shape[-1] if mask is None else int(mask.sum(dim=-1).min())
    if not 1 <= k <= fewest:
        raise ValueError(
            f"`k` must be between 1 and the {fewest} candidate documents of a question, got {k}."
        )
    if not temperature > 0:
        raise ValueError(f"`temperature` must be above 0, got {temperature}.")


def gather(memory: Tensor, indices: Tensor) -> Tensor:
    """Memories at indices.

    Args:
        memory: (N, M, H) one pool, or (B, N, M, H) a pool per question.
        indices: (B, K) positions in the pool.

    Returns:
        (B, K, M, H) chosen memories.
    """
    if memory.dim() == 3:
        return memory[indices]
    rows = torch.arange(len(memory), device=memory.device).unsqueeze(-1)
    return memory[rows, indices]


def select(weights: Tensor, memory: Tensor) -> Tensor:
    """Memories chosen by soft top-k weights; the product carries the gradient to the scores.

    Args:
        weights: (B, K, N) from `soft_topk`.
        memory: (B, N, M, H) a pool per question.

    Returns:
        (B, K, M, H) chosen memories in the memory's dtype.
    """
    chosen = torch.einsum("bkn,bnd->bkd", weights.to(memory.dtype), memory.flatten(-2))
    return chosen.unflatten(-1, memory.shape[-2:])
