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


def attention_bias(attend: Tensor, dtype: torch.dtype, implementation: str) -> Tensor:
    """A mask of who attends to whom in the form that the base's attention takes.

    Args:
        attend: (B, Lq, Lk) bool, True where a query may attend to a key.
        dtype: Of the hidden states.
        implementation: The base's `_attn_implementation`.

    Returns:
        (B, 1, Lq, Lk): bool for "sdpa", 0 and the lowest number in `dtype` for "eager".

    Raises:
        ValueError: For any other implementation, whose masks are of another kind.
    """
    if implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"attn_implementation {implementation!r} takes no mask of its own: load the model with "
            "attn_implementation='sdpa' or 'eager' for `encoder_attention` 'bidirectional' and for packed "
            "questions."
        )
    if implementation == "sdpa":
        return attend.unsqueeze(1)
    return torch.zeros_like(attend, dtype=dtype).masked_fill(~attend, torch.finfo(dtype).min).unsqueeze(1)


def segment_attention(segments: Tensor) -> Tensor:
    """Who attends to whom where questions share one prompt: each sees the prompt and itself, causally.

    Args:
        segments: (B, L): -1 at padding, 0 in the shared prompt, 1, 2, … in the questions.

    Returns:
        (B, L, L) bool; padding attends to itself, so that no row is empty.
    """
    query, key = segments.unsqueeze(-1), segments.unsqueeze(-2)
    places = torch.arange(segments.shape[-1], device=segments.device)
    own = (key == 0) | (key == query)
    seen = own & (key >= 0) & (query >= 0) & (places <= places.unsqueeze(-1))
    return seen | (places == places.unsqueeze(-1))


def segment_positions(segments: Tensor) -> Tensor:
    """(B, L) positions: each question goes on where the shared prompt ends."""
    found = torch.zeros_like(segments)
    prompt = (segments == 0).long()
    found += (prompt.cumsum(dim=-1) - 1).clamp(min=0) * prompt
    length = prompt.sum(dim=-1, keepdim=True)
    for number in range(1, int(segments.max()) + 1):
        own = (segments == number).long()
        found += (length + own.cumsum(dim=-1) - 1) * own
    return found


def alignment_loss(
    states: Tensor, attention_mask: Tensor, vectors: Tensor, counts: Tensor | None = None
) -> Tensor:
    """Squared difference of a document's mean state and its mean memory, a mean over N and H (paper eq. 2.3).

    Args:
        states: (N, L, H) token states of the documents.
        attention_mask: (N, L).
        vectors: (N, H) mean memories, float32.
        counts: (N,) how often each document counts in the mean; once by default.

    Returns:
        Scalar in float32.
    """
    mask = attention_mask.unsqueeze(-1).float()
    document = (states.float() * mask).sum(dim=1) / mask.sum(dim=1)
    if counts is None:
        return functional.mse_loss(vectors, document)
    errors = (vectors - document).pow(2).mean(dim=-1)
    return (errors * counts).sum() / counts.sum()


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
    many = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if many or attention_mask.is_cuda:
        return [torch.arange(len(attention_mask), device=attention_mask.device)]
    lengths = attention_mask.sum(dim=-1).tolist()
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    groups: list[list[int]] = []
    for row in order:
        if not groups or lengths[row] < ratio * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(row)
    return [torch.tensor(sorted(rows), device=attention_mask.device) for rows in groups]
