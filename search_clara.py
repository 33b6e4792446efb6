"""Nearest memories by cosine: exactly, a block of rows at a time, or among the candidates of an index.

Letters of the shapes: B questions, N passages, K chosen, C candidates, M memory tokens, H hidden width,
n rows of a block.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_BYTES = 1 << 24  # more than 32 MiB at once come as new pages every time, which takes twice as long
MAX_BLOCK_ROWS = 8192
READ_BLOCKS = 4
SPARE = 16
CLOSE = 1e-5  # cosines in float32 that differ by less may stand in the wrong order
RESCORED_ROWS = 1024

Gather = Callable[[Tensor], Tensor]


def check_search(query: Tensor, shape: tuple[int, int], count: int, k: int, block_size: int | None) -> None:
    """Checks a query against a memory of `count` passages of shape (M, H).

    Raises:
        ValueError: If `query` is not (B, M, H) with the memory's M and H or not finite, `retrieval_top_k` is
            not from 1 to N, or `block_size` is below 1.
    """
    if query.dim() != 3 or len(query) == 0 or tuple(query.shape[1:]) != tuple(shape):
        raise ValueError(
            f"`query` must be (B, M, H) with the memory's M = {shape[0]} and H = {shape[1]}, got "
            f"{tuple(query.shape)}: both must come from one model at one compression rate."
        )
    if not torch.isfinite(query).all():
        raise ValueError("`query` holds NaN or an infinity: its cosines have no order.")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= count:
        raise ValueError(
            f"`retrieval_top_k` must be from 1 to the {count} passages of the memory, got {k!r}."
        )
    if block_size is not None and block_size < 1:
        raise ValueError(f"`block_size` must be at least 1, got {block_size}.")


def default_block_size(width: int) -> int:
    """Rows of a block: 16 MiB of float32 values (width = M * H), at most 8192 rows."""
    return max(1, min(MAX_BLOCK_ROWS, BLOCK_BYTES // (4 * width)))


@torch.no_grad()
def nearest(
    query: Tensor,
    k: int,
    read: Callable[[int, int], Tensor],
    gather: Gather,
    norms: Tensor,
    block_size: int,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The K rows with the highest cosine to each query, best first; of equal ones the lower index first.

    A float32 product rounds a row differently with its place in the block and the number of questions, so K
    candidates and a few more are scored again one by one, in float64: equal memories get equal scores, and a
    question gets the same scores alone and in a batch.

    Args:
        query: (B, M, H).
        k: K.
        read: Reads rows start to stop, (n, M, H), on the CPU.
        gather: Reads the rows at indices (n,), (n, M, H), on the CPU.
        norms: (N,) float32 norms of the rows, NaN where not known yet; those are filled in here.
        block_size: Rows read at a time.
        rows: Sorted indices of the only rows that may be found. None: all.

    Returns:
        (B, K) float32 scores and (B, K) int64 indices on the query's device; fewer columns if there are fewer
        rows.

    Raises:
        ValueError: If a row read is not finite, which only a damaged file can cause.
    """
    candidates = scan(query, k, read, gather, norms, block_size, rows)
    return rescore(query, candidates, gather, k)


def scan(
    query: Tensor,
    k: int,
    read: Callable[[int, int], Tensor],
    gather: Gather,
    norms: Tensor,
    block_size: int,
    rows: Tensor | None = None,
) -> Tensor:
    """The K best rows by float32 cosine, and those as good but for rounding; arguments of `nearest`.

    Returns:
        (B, C) rows on the CPU, -1 where there is none.
    """
    unit = unit_rows(query.cpu()).float().to(query.device)
    scores = unit.new_empty(len(unit), 0)
    indices = torch.empty(len(unit), 0, dtype=torch.long, device=unit.device)
    for places, block in _blocks(read, gather, len(norms), block_size, rows):
        block = block.flatten(1)
        unknown = torch.isnan(norms[places])
        if unknown.any():
            norms[places] = row_norms(block, places)
        found = block_scores(unit, block, norms[places])
        columns = places.to(unit.device).expand(len(unit), -1)
        scores, indices = _best(torch.cat([scores, found], 1), torch.cat([indices, columns], 1), k + SPARE)
    return _close_ones(scores, indices, k).cpu()


def _close_ones(scores: Tensor, indices: Tensor, k: int) -> Tensor:
    """Of (B, C) candidates, best first, those that may be among the K best, (B, C'), -1 for none."""
    worst = scores[:, min(k, scores.shape[1]) - 1]
    kept = scores >= worst.unsqueeze(1) - CLOSE
    return indices.masked_fill(~kept, -1)[:, : int(kept.sum(dim=1).max())]


def _blocks(
    read: Callable[[int, int], Tensor], gather: Gather, count: int, size: int, rows: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices (n,) and memories (n, M, H) of each block."""
    if rows is not None:
        yield from ((places, gather(places)) for places in rows.split(size) if len(places))
        return
    for start in range(0, count, size):
        stop = min(count, start + size)
        yield torch.arange(start, stop), read(start, stop)


@torch.no_grad()
def refine(query: Tensor, proposed: Tensor, gather: Gather, k: int, block_size: int) -> Tensor:
    """The K best of each question's proposed rows, and those as good but for rounding, by float32 cosine.

    The rows of many questions are read together, each once and in the order of the files.

    Args:
        query: (B, M, H).
        proposed: (B, C) rows, -1 where there is none; each question has at least one.
        gather: Reads the rows at indices (n,), (n, M, H), on the CPU.
        k: K.
        block_size: Rows that are float32 at a time; 4 times as many, or those of one question, are read.

    Returns:
        (B, C') rows on the CPU, -1 where there is none.
    """
    unit = unit_rows(query.cpu()).float()
    chosen = []
    for part in torch.arange(len(unit)).split(max(1, READ_BLOCKS * block_size // proposed.shape[1])):
        own = proposed[part].sort(dim=1).values
        rows, places = own.clamp_min(0).unique(return_inverse=True)
        memories = gather(rows)
        found = [
            _cosines(unit[row], rows, memories, at, block_size) for row, at in zip(part, places, strict=True)
        ]
        scores = torch.stack(found).masked_fill(own < 0, float("-inf"))
        chosen.append(_close_ones(*_best(scores, own, k + SPARE), k))
    width = max(part.shape[1] for part in chosen)
    return torch.cat([functional.pad(part, (0, width - part.shape[1]), value=-1) for part in chosen])


def _cosines(unit: Tensor, rows: Tensor, memories: Tensor, places: Tensor, block_size: int) -> Tensor:
    """Float32 cosines (C,) of a unit query (M * H) and the memories (n, M, H) of rows (n,) at places (C,)."""
    found = []
    for own in places.split(block_size):
        block = memories[own].flatten(1).float()
        found.append(block_scores(unit.unsqueeze(0), block, row_norms(block, rows[own])).squeeze(0))
    return torch.cat(found)


@torch.no_grad()
def rescore(query: Tensor, candidates: Tensor, gather: Gather, k: int) -> tuple[Tensor, Tensor]:
    """The K best of each question's candidates, scored in float64.

    Args:
        query: (B, M, H).
        candidates: (B, C) rows on the CPU, -1 where there is none.
        gather: Reads the rows at indices (n,), (n, M, H), on the CPU.
        k: K.

    Returns:
        (B, K) float32 cosines, best first, of equal ones the lower index first, and (B, K) int64 indices, on
        the query's device.
    """
    candidates, exact = candidates.sort(dim=1).values, []
    unit = unit_rows(query.cpu())
    for part in torch.arange(len(unit)).split(max(1, RESCORED_ROWS // candidates.shape[1])):
        rows, places = candidates[part].clamp_min(0).unique(return_inverse=True)
        memories = gather(rows)
        exact += [exact_scores(unit[row], memories[own]) for row, own in zip(part, places, strict=True)]
    scores = torch.stack(exact).masked_fill(candidates < 0, float("-inf"))
    scores, indices = _best(scores, candidates, k)
    return scores.to(query.device), indices.to(query.device)


def exact_scores(unit: Tensor, rows: Tensor) -> Tensor:
    """Cosines (n,) of one unit query (M * H) and rows (n, M, H), rounded to float32 only at the end."""
    return (unit_rows(rows) @ unit).float()


def unit_rows(rows: Tensor) -> Tensor:
    """Rows (n, M, H) to float64 unit vectors (n, M * H); a zero row stays zero."""
    rows = rows.flatten(1).double()
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norms.masked_fill(norms == 0, 1.0)


def row_norms(rows: Tensor, places: Tensor) -> Tensor:
    """Float32 norms (n,) of a block (n, M * H) whose rows have the indices `places`.

    Raises:
        ValueError: If a row is not finite; names its index.
    """
    norms = torch.linalg.vector_norm(rows.float(), dim=1)
    if not (torch.isfinite(norms) & (norms > 0)).all():
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    if not torch.isfinite(norms).all():
        row = int(places[(~torch.isfinite(norms)).nonzero()[0]])
        raise ValueError(f"`memory[{row}]` is not finite: the store is damaged; load it with `verify=True`.")
    return norms.float()


def block_scores(unit: Tensor, rows: Tensor, norms: Tensor) -> Tensor:
    """Cosines (B, n) in float32, also inside autocast; a zero row scores 0."""
    with torch.autocast(unit.device.type, enabled=False):
        dots = unit @ rows.to(unit.device).float().T
    return dots / norms.masked_fill(norms == 0, 1.0).to(unit.device)


def _best(scores: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The K best of (B, n) candidates, which stand in the order of their indices within equal scores."""
    scores, order = torch.sort(scores, dim=1, descending=True, stable=True)
    return scores[:, :k], indices.gather(1, order[:, :k])
