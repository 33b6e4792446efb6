"""Exact nearest memories by cosine, a block of rows at a time, so that RAM does not grow with the corpus.

Letters of the shapes: B questions, N passages, K chosen, M memory tokens, H hidden width, n rows of a block.
"""

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK_BYTES = 1 << 26
MAX_BLOCK_ROWS = 8192
SPARE = 16


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
    """Rows of a block: 64 MiB of float32 values (width = M * H), at most 8192 rows."""
    return max(1, min(MAX_BLOCK_ROWS, BLOCK_BYTES // (4 * width)))


@torch.no_grad()
def nearest(
    query: Tensor,
    k: int,
    read: Callable[[int, int], Tensor],
    gather: Callable[[Tensor], Tensor],
    norms: Tensor,
    block_size: int,
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

    Returns:
        (B, K) float32 scores and (B, K) int64 indices on the query's device.

    Raises:
        ValueError: If a row read is not finite, which only a damaged file can cause.
    """
    exact_unit = _unit(query.cpu())
    unit = exact_unit.float().to(query.device)
    scores = unit.new_empty(len(unit), 0)
    indices = torch.empty(len(unit), 0, dtype=torch.long, device=unit.device)
    for start in range(0, len(norms), block_size):
        stop = min(len(norms), start + block_size)
        rows = read(start, stop).flatten(1)
        if torch.isnan(norms[start:stop]).any():
            norms[start:stop] = _row_norms(rows, start)
        found = _block_scores(unit, rows, norms[start:stop])
        places = torch.arange(start, stop, device=unit.device).expand(len(unit), -1)
        scores, indices = _best(torch.cat([scores, found], 1), torch.cat([indices, places], 1), k + SPARE)
    candidates = indices.cpu().sort(dim=1).values
    exact = [_exact_scores(row, gather(places)) for row, places in zip(exact_unit, candidates, strict=True)]
    scores, indices = _best(torch.stack(exact), candidates, k)
    return scores.to(query.device), indices.to(query.device)


def _exact_scores(unit: Tensor, rows: Tensor) -> Tensor:
    """Cosines (n,) of one unit query (M * H) and rows (n, M, H), rounded to float32 only at the end."""
    return (_unit(rows) @ unit).float()


def _unit(rows: Tensor) -> Tensor:
    """Rows (n, M, H) to float64 unit vectors (n, M * H); a zero row stays zero."""
    rows = rows.flatten(1).double()
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norms.masked_fill(norms == 0, 1.0)


def _row_norms(rows: Tensor, start: int) -> Tensor:
    """Norms (n,) of a block (n, M * H) that begins at row `start`."""
    norms = torch.linalg.vector_norm(rows.float(), dim=1)
    if not (torch.isfinite(norms) & (norms > 0)).all():
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    if not torch.isfinite(norms).all():
        row = start + int((~torch.isfinite(norms)).nonzero()[0])
        raise ValueError(f"`memory[{row}]` is not finite: the store is damaged; load it with `verify=True`.")
    return norms


def _block_scores(unit: Tensor, rows: Tensor, norms: Tensor) -> Tensor:
    """Cosines (B, n) in float32, also inside autocast; a zero row scores 0."""
    with torch.autocast(unit.device.type, enabled=False):
        dots = unit @ rows.to(unit.device).float().T
    return dots / norms.masked_fill(norms == 0, 1.0).to(unit.device)


def _best(scores: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The K best of (B, n) candidates, which stand in the order of their indices within equal scores."""
    scores, order = torch.sort(scores, dim=1, descending=True, stable=True)
    return scores[:, :k], indices.gather(1, order[:, :k])
