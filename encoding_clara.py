"""Small pieces of the model's passes: lock, eval mode, positions, length buckets, pooling, alignment loss."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional


class ModelLock:
    """One re-entrant lock a model, since wearing an adapter changes shared layers; a copy gets its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __deepcopy__(self, memo: dict) -> "ModelLock":
        return ModelLock()

    def __reduce__(self) -> tuple:
        return ModelLock, ()


def every_module(model: nn.Module) -> Iterator[nn.Module]:
    """As `model.modules()`, without building names: three times as fast, and every answer walks twice."""
    waiting, seen = [model], set()
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            yield module
            waiting.extend(child for child in module._modules.values() if child is not None)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode (no dropout) for a block of code; each module is then put back into the mode it was in."""
    training = [module for module in every_module(model) if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def positions(attention_mask: Tensor, counted: str = "tokens") -> Tensor:
    """Position ids that count "tokens" and skip padding on either side, or "columns".  (B, L) -> (B, L)."""
    ones = attention_mask.long() if counted == "tokens" else torch.ones_like(attention_mask).long()
    return (ones.cumsum(dim=-1) - 1).clamp(min=0)


def mean_spans(states: Tensor, attention_mask: Tensor, spans: int) -> Tensor:
    """Mean states of M equal spans of each text (arXiv 2510.20797); a text shorter than M repeats tokens.

    Args:
        states: (N, L, H).
        attention_mask: (N, L), padding on either side.
        spans: M.

    Returns:
        (N, M, H) in the states' dtype.
    """
    mask = attention_mask.bool()
    count = mask.sum(dim=-1, keepdim=True)
    place = (mask.long().cumsum(dim=-1) - 1).unsqueeze(1)
    step = torch.arange(spans, device=states.device).unsqueeze(0)
    start = (step * count // spans).unsqueeze(-1)
    end = torch.maximum((step + 1) * count // spans, step * count // spans + 1).unsqueeze(-1)
    inside = ((place >= start) & (place < end) & mask.unsqueeze(1)).float()
    weights = inside / inside.sum(dim=-1, keepdim=True)
    return (weights @ states.float()).to(states.dtype)


def fewer_tokens(memory: Tensor, count: int | None, pooling: str) -> Tensor:
    """Memories of a higher compression rate out of longer ones (nested rates).

    Memory tokens are ordered by training, so the first ones are taken. Mean states lie along the text, so
    neighbouring ones are averaged: up to rounding these are the means of longer spans.

    Args:
        memory: (..., M, H).
        count: m tokens of each; None: all.
        pooling: "memory_tokens" or "mean".

    Returns:
        (..., m, H) in the memory's dtype.

    Raises:
        ValueError: If m is not from 1 to M, or spans are averaged and m does not divide M.
    """
    size = memory.shape[-2]
    if count is None or count == size:
        return memory
    if not 1 <= count < size or (pooling == "mean" and size % count):
        rule = "a divisor of" if pooling == "mean" else "from 1 to"
        raise ValueError(f"`num_memory_tokens` must be {rule} the {size} tokens of a memory, got {count}.")
    if pooling == "memory_tokens":
        return memory[..., :count, :]
    return memory.unflatten(-2, (count, size // count)).float().mean(dim=-2).to(memory.dtype)


def alignment_loss(states: Tensor, attention_mask: Tensor, memory: Tensor) -> Tensor:
    """Squared difference of a document's mean state and its mean memory, a mean over N and H (paper eq. 2.3).

    Args:
        states: (N, L, H) token states of the documents.
        attention_mask: (N, L).
        memory: (N, M, H).

    Returns:
        Scalar in float32.
    """
    mask = attention_mask.unsqueeze(-1).float()
    document = (states.float() * mask).sum(dim=1) / mask.sum(dim=1)
    return functional.mse_loss(memory.float().mean(dim=1), document)


def length_buckets(texts: Sequence[str], batch_size: int) -> Iterator[list[int]]:
    """Indices of the texts in batches of similar length, so that little is padded."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def length_groups(attention_mask: Tensor, ratio: float = 0.75) -> list[Tensor]:
    """Rows in groups of similar length, longest first, so that short rows are not padded to the longest.

    In a distributed run all rows are one group: sharded parameters are gathered in every pass, so each
    process must make equally many.

    Args:
        attention_mask: (B, L).
        ratio: A row shorter than this share of its group's longest opens a new group.

    Returns:
        Row indices of each group, ascending.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return [torch.arange(len(attention_mask), device=attention_mask.device)]
    lengths = attention_mask.sum(dim=-1).tolist()
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    groups: list[list[int]] = []
    for row in order:
        if not groups or lengths[row] < ratio * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(row)
    return [torch.tensor(sorted(rows), device=attention_mask.device) for rows in groups]
