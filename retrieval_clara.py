"""Retrieval as tensor maths without state: pooling, cosine, the differentiable top-k.

Letters of the shapes: B questions, N passages, K chosen, M memory vectors (of the longest memory), T vectors
of all memories, H hidden width, D width of a search vector, L tokens, V vocabulary.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers.utils import ModelOutput

BLOCK_ROWS = 2048
FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FORMATS = (*FLOATS, "int8", "int4")
PACKED_KINDS = {**FLOATS, "int8": torch.int8, "int4": torch.uint8}
GROUP = 64  # values of a vector that share one scale in int8 and int4


class Memories(NamedTuple):
    """Memories of different lengths, padded with zeros at the end.

    Attributes:
        values: (..., M, H).
        counts: (...) int64, how many of the M vectors are a memory's own.
    """

    values: Tensor
    counts: Tensor

    @property
    def mask(self) -> Tensor:
        """(..., M) bool, True at a memory's own vectors."""
        return torch.arange(self.values.shape[-2], device=self.counts.device) < self.counts.unsqueeze(-1)

    def rows(self) -> Tensor:
        """(T, H): the own vectors of all memories, one memory after the other."""
        return self.values[self.mask]


@dataclass
class RetrievalOutput(ModelOutput):
    """Passages found, best first.

    Attributes:
        document_ids: Ids of the passages: a list for one question, a list of lists for several.
        indices: Their places in the memory, shaped as `document_ids`.
        scores: Cosines, (K,) for one question and (B, K) for several, float32.
    """

    document_ids: list | None = None
    indices: list | None = None
    scores: Tensor | None = None


@dataclass
class ClaraGenerateOutput(ModelOutput):
    """What `generate` returns with `return_dict_in_generate=True`.

    Attributes:
        answers: One text, or a list of texts for a list of questions (a list of lists with several
            `num_return_sequences`).
        document_ids: Ids of the chosen passages, best first.
        indices: Their places in the memory.
        scores: Their cosines, (K,) or (B, K); -inf where a question's pool has fewer passages.
        sequences: (B, L) generated token ids, without the prompt.
        generation: transformers' own output.
    """

    answers: str | list | None = None
    document_ids: list | None = None
    indices: list | None = None
    scores: Tensor | None = None
    sequences: Tensor | None = None
    generation: ModelOutput | None = None


def first(output: ModelOutput) -> ModelOutput:
    """The output of a single question out of a batch of one."""
    batched = ("answers", "document_ids", "indices", "scores")
    return type(output)(**{key: value[0] if key in batched else value for key, value in output.items()})


def span_means(states: Tensor, attention_mask: Tensor, rate: int) -> Memories:
    """Mean state of every `rate` tokens (arXiv 2510.20797): a text of L tokens has ceil(L / rate) vectors.

    Of states (N, L, H) with a mask (N, L), padding on either side, to memories (N, M, H) in their dtype; the
    last vector is the mean of those that are left.
    """
    mask = attention_mask.bool()
    lengths = mask.sum(dim=-1)
    counts = (lengths + rate - 1) // rate
    span = (mask.long().cumsum(dim=-1) - 1) // rate
    spans = torch.arange(-(-states.shape[1] // rate), device=states.device)
    inside = ((span.unsqueeze(1) == spans.unsqueeze(-1)) & mask.unsqueeze(1)).float()
    weights = inside / inside.sum(dim=-1, keepdim=True).clamp(min=1)
    with torch.autocast(states.device.type, enabled=False):
        means = weights @ states.float()
    return Memories(means.to(states.dtype), counts)


def average_neighbours(memories: Memories, factor: int) -> Memories:
    """Memories at a larger compression rate: every `factor` neighbouring vectors averaged (nested rates).

    (..., M, H) -> (..., ceil(M / factor), H) in their dtype; the last is the mean of those that are left.
    Raises a ValueError if the factor is below 1.
    """
    if factor < 1:
        raise ValueError(f"`factor` must be at least 1, got {factor}.")
    if factor == 1:
        return memories
    missing = -memories.values.shape[-2] % factor
    values = functional.pad(memories.values.float(), (0, 0, 0, missing)).unflatten(-2, (-1, factor))
    own = functional.pad(memories.mask, (0, missing)).unflatten(-1, (-1, factor)).float()
    means = (values * own.unsqueeze(-1)).sum(dim=-2) / own.sum(dim=-1, keepdim=True).clamp(min=1)
    return Memories(means.to(memories.values.dtype), (memories.counts + factor - 1) // factor)


def pool(memories: Memories, pooling: str = "mean") -> Tensor:
    """The vector by which memories (..., M, H) are searched, in float32, also under autocast.

    "mean": that of a memory's own vectors, (..., H); "flatten": all in one row, (..., M * H), the paper's
    form (section 3.2). Raises a ValueError if memories of different lengths are to be flattened.
    """
    if pooling == "flatten":
        if not bool((memories.counts == memories.values.shape[-2]).all()):
            raise ValueError(
                "`retrieval_pooling` 'flatten' needs memories of one length: use 'mean', or `pooling` "
                "'memory_tokens'."
            )
        return memories.values.float().flatten(-2)
    own = memories.mask.unsqueeze(-1).float()
    return (memories.values.float() * own).sum(dim=-2) / own.sum(dim=-2).clamp(min=1)


def alignment_loss(
    states: Tensor, attention_mask: Tensor, vectors: Tensor, counts: Tensor | None = None
) -> Tensor:
    """Squared difference of a document's mean state and its mean memory, a mean over N and H (paper eq. 2.3).

    Of states (N, L, H) and mean memories (N, H); `counts` (N,) is how often each document counts.
    """
    mask = attention_mask.unsqueeze(-1).float()
    document = (states.float() * mask).sum(dim=1) / mask.sum(dim=1)
    if counts is None:
        return functional.mse_loss(vectors, document)
    errors = (vectors - document).pow(2).mean(dim=-1)
    return (errors * counts).sum() / counts.sum()


def cosine_scores(query: Tensor, vectors: Tensor) -> Tensor:
    """Cosines of search vectors, (B, N) float32 whatever the inputs are, also under autocast.

    Of questions (B, D) with passages for all, (N, D), or candidates of each, (B, N, D). A zero vector scores
    0. Raises a ValueError if the widths differ.
    """
    if query.shape[-1] != vectors.shape[-1]:
        raise ValueError(
            f"`query` and `vectors` must have one width, got {query.shape[-1]} and {vectors.shape[-1]}: both "
            "must come from one model."
        )
    with torch.autocast(query.device.type, enabled=False):
        query = functional.normalize(query.float(), dim=-1)
        vectors = functional.normalize(vectors.float(), dim=-1)
        if vectors.dim() == 2:
            return query @ vectors.T
        return torch.einsum("bd,bnd->bn", query, vectors)


def soft_topk(
    scores: Tensor,
    k: int,
    temperature: float = 0.02,
    estimator: str = "straight_through",
    mask: Tensor | None = None,
    wanted: Tensor | None = None,
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
        wanted: (B, N) bool, True at documents that are chosen before any other (the gold ones, so that the
            generator always has what it is to read). The choice keeps the order of the scores.

    Returns:
        (B, K, N) weights, whose forward value is exactly one-hot, and (B, K) indices of the chosen documents.

    Raises:
        ValueError: If k is below 1 or above a row's number of candidates, the temperature is not positive, or
            the estimator is unknown.
    """
    fewest = scores.shape[-1] if mask is None else int(mask.sum(dim=-1).min())
    if not 1 <= k <= fewest:
        raise ValueError(
            f"`k` must be between 1 and the {fewest} candidate documents of a question, got {k}."
        )
    if not temperature > 0:
        raise ValueError(f"`temperature` must be above 0, got {temperature}.")
    logits = scores.float() / temperature
    if estimator == "gumbel":
        logits = logits - torch.empty_like(logits).exponential_().log()
    elif estimator != "straight_through":
        raise ValueError(f"`estimator` must be 'straight_through' or 'gumbel', got {estimator!r}.")
    taken = torch.zeros_like(logits, dtype=torch.bool) if mask is None else ~mask
    chosen = _chosen(logits.masked_fill(taken, float("-inf")), k, wanted)
    weights = []
    for index in chosen.split(1, dim=-1):
        soft = logits.masked_fill(taken, float("-inf")).softmax(dim=-1)
        hard = torch.zeros_like(soft).scatter(-1, index, 1.0)
        weights.append(hard + (soft - soft.detach()))
        taken = taken.scatter(-1, index, True)
    return torch.stack(weights, dim=1), chosen.contiguous()


def _chosen(logits: Tensor, k: int, wanted: Tensor | None) -> Tensor:
    """(B, K) indices of the best, the wanted ones before all others, in the order of their logits."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    if wanted is None:
        return order[:, :k]
    last = (~wanted).gather(-1, order).long()
    return order.gather(-1, last.argsort(dim=-1, stable=True)[:, :k].sort(dim=-1).values)


def select(weights: Tensor, indices: Tensor, memories: Memories) -> Memories:
    """Memories chosen by soft top-k weights; the product carries the gradient to the scores.

    Of the weights (B, K, N) and indices (B, K) of `soft_topk` and a pool per question, (B, N, M, H), to the
    chosen memories (B, K, M, H) in their dtype.
    """
    values = memories.values
    with torch.autocast(values.device.type, enabled=False):
        chosen = torch.einsum("bkn,bnd->bkd", weights.to(values.dtype), values.flatten(-2))
    return Memories(chosen.unflatten(-1, values.shape[-2:]), memories.counts.gather(-1, indices))


def mean_vectors(values: Tensor, offsets: Tensor) -> Tensor:
    """Each passage's mean, (N, H) float32, of vectors (T, H); offsets (N + 1,) int64 ascend from 0 to T."""
    counts = offsets.diff()
    rows = torch.repeat_interleave(torch.arange(len(counts)), counts)
    sums = torch.zeros(len(counts), values.shape[1]).index_add_(0, rows, values.float())
    return sums / counts.unsqueeze(1)


def check_search(vectors: Tensor, k: int, size: int, width: int) -> Tensor:
    """Checks a search of `size` passages and returns the questions' unit vectors, float32 on the CPU.

    Vectors are (B, D), or whole memories of questions, (B, M, H), which are pooled to that width.
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= size:
        raise ValueError(
            f"`retrieval_top_k` must be between 1 and the {size} passages of the memory, got {k}."
        )
    if vectors.dim() == 3:
        vectors = vectors.flatten(1) if vectors[0].numel() == width else vectors.float().mean(1)
    if vectors.dim() != 2 or vectors.shape[1] != width:
        raise ValueError(
            f"`vectors` must be (B, {width}), one search vector a question, got {tuple(vectors.shape)}: "
            "question and memory must come from one model with one `retrieval_pooling`."
        )
    return functional.normalize(vectors.detach().float().cpu(), dim=-1)


def nearest(
    query: Tensor, blocks: Iterable[tuple[Tensor, Tensor, Tensor | None]], k: int
) -> tuple[Tensor, Tensor]:
    """Exact search by cosine, block by block, in float32; of equal scores the lower index first.

    Of unit vectors (B, D) in blocks of indices (n,), float32 vectors (n, D) and their lengths (n,), or None
    for unit vectors: scores and int64 indices (B, K), best first; fewer columns if there are fewer vectors.
    """
    scores, indices = torch.empty(len(query), 0), torch.empty(len(query), 0, dtype=torch.long)
    for rows, vectors, lengths in blocks:
        found = query @ vectors.T
        found = found if lengths is None else found / lengths
        best, places = found.topk(min(k, len(rows)), dim=1)
        indices = torch.cat([indices, rows[places]], 1)
        scores = torch.cat([scores, best], 1)
        order = indices.argsort(dim=1)
        order = order.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True))[:, :k]
        scores, indices = scores.gather(1, order), indices.gather(1, order)
    return scores, indices


def row_blocks(
    vectors: Tensor, lengths: Tensor, rows: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What `nearest` reads of vectors (N, D) of lengths (N,): all of them, or those of the rows (n,)."""
    for start in range(0, len(vectors) if rows is None else len(rows), BLOCK_ROWS):
        end = min(start + BLOCK_ROWS, len(vectors))
        chosen = slice(start, end) if rows is None else rows[start:end]
        yield torch.arange(start, end) if rows is None else chosen, vectors[chosen], lengths[chosen]


def format_name(dtype: torch.dtype | str) -> str:
    """The name of a format in which memories are kept, from its name or from a torch dtype.

    Raises a ValueError if memories cannot be kept so.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in FORMATS:
        raise ValueError(f"`dtype` must be one of {', '.join(FORMATS)}, got {dtype}.")
    return name


@torch.no_grad()
def pack(values: Tensor, dtype: str) -> dict[str, Tensor]:
    """Packs vectors (T, H) of any float dtype in a format: `values` (T, H), and `scales` where it has some.

    "int8" and "int4" keep one bfloat16 scale for 64 neighbouring values, (T, H / 64); int4 has two values in
    a byte, (T, H / 2). Raises a ValueError if a value is NaN, infinite or too large for the format, or H is
    odd with int4.
    """
    if dtype in FLOATS:
        return {"values": check_finite(values.to(FLOATS[dtype]))}
    if dtype == "int4" and values.shape[1] % 2:
        raise ValueError(f"`dtype` int4 packs pairs, but the width {values.shape[1]} is odd: use int8.")
    most = 127 if dtype == "int8" else 7
    groups = check_finite(values).float().unflatten(-1, (-1, math.gcd(values.shape[-1], GROUP)))
    scales = (groups.abs().amax(-1) / most).to(torch.bfloat16)
    divisors = scales.float().masked_fill(scales == 0, 1.0).unsqueeze(-1)
    steps = (groups / divisors).round().clamp(-most, most).flatten(-2)
    if dtype == "int8":
        return {"values": steps.to(torch.int8), "scales": scales}
    pairs = (steps + 8).to(torch.uint8)
    return {"values": pairs[:, 0::2] | pairs[:, 1::2] << 4, "scales": scales}


@torch.no_grad()
def unpack(parts: Mapping[str, Tensor], dtype: str) -> Tensor:
    """Vectors (T, H) from what `pack` returned: of the format's own dtype, float32 for int8 and int4."""
    values = parts["values"]
    if dtype in FLOATS:
        return values
    if dtype == "int4":
        values = torch.stack([values & 15, values >> 4], -1).flatten(-2).to(torch.int8) - 8
    groups = values.float().unflatten(-1, (parts["scales"].shape[-1], -1))
    return (groups * parts["scales"].float().unsqueeze(-1)).flatten(-2)


def check_finite(values: Tensor) -> Tensor:
    """Returns vectors (T, H) that hold no NaN and no infinity; raises ValueError, which names the row."""
    wrong = ~torch.isfinite(values).all(dim=-1) if len(values) else torch.zeros(0)
    if wrong.any():
        raise ValueError(
            f"`values[{int(wrong.nonzero()[0])}]` holds NaN, an infinity or a value too large for its dtype: "
            "compress the document again, or choose another `dtype`."
        )
    return values


def check_ragged(values: Tensor | Sequence[Tensor], offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Ragged memories, checked, on the CPU and without a graph: (T, H) and (N + 1,).

    Raises a ValueError if shapes or dtypes are others than those of `CorpusMemory`.
    """
    if offsets is None:
        rows = list(values)
        if not rows or any(row.dim() != 2 for row in rows):
            raise ValueError(
                "`values` must be N memories (m, H), a list or (N, M, H), where no `offsets` are given, got "
                f"{tuple(values.shape) if isinstance(values, Tensor) else len(rows)}."
            )
        values, offsets = torch.cat(rows), torch.tensor([0, *map(len, rows)]).cumsum(0)
    if values.dim() != 2 or values.dtype not in FLOATS.values() or 0 in values.shape:
        raise ValueError(
            f"`values` must be (T, H) of {', '.join(FLOATS)}, with one vector at least, got "
            f"{tuple(values.shape)} of {values.dtype}."
        )
    offsets = offsets.detach().cpu()
    right = offsets.dim() == 1 and offsets.dtype == torch.int64 and len(offsets) > 1
    if not right or offsets[0] != 0 or offsets[-1] != len(values) or (offsets.diff() < 1).any():
        raise ValueError(
            f"`offsets` must be (N + 1,) int64 that ascend from 0 to {len(values)}, one vector a passage "
            f"at least, got {tuple(offsets.shape)} of {offsets.dtype}."
        )
    return values.detach().cpu(), offsets
