"""The index of vectors: its kind, and how hard it is searched, chosen by questions.

Letters of the shapes: Q questions, D width of a search vector.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .places import Places
from .search import VECTOR_INDEX, Effort, approximate, exact, index_names
from .vectors import Vectors

INDEXED_FROM = 200_000
SMALLEST = 256
AT = 5
EQUAL = 1e-6  # scores of equal vectors differ by rounding
TESTS = 256
EFFORT = ("clara.nprobes", "clara.refine")
PROBED = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
REFINED = (4, 8, 16, 32, 64, 128, 256, 512)


def read_effort(dataset: Any) -> Effort | None:
    """How hard the index is searched; None if there is no index."""
    if VECTOR_INDEX not in index_names(dataset):
        return None
    config = dataset.config()
    return Effort(*(int(config[name]) for name in EFFORT)) if EFFORT[0] in config else None


def build_ann(
    dataset: Any,
    uri: str,
    size: int,
    questions: Tensor | None = None,
    recall: float = 0.99,
    index_type: str = "IVF_RQ",
    **options: Any,
) -> Effort:
    """Builds the index and chooses the quickest effort that surely finds `recall` of the exact five nearest.

    Args:
        dataset: The Lance dataset, at its latest version.
        uri: Where it lies.
        size: Its rows.
        questions: (Q, D) search vectors of questions. Default: 256 vectors of the dataset.
        recall: As above.
        index_type: Of Lance.
        **options: Of Lance's `create_index`.

    Returns:
        The effort, which is kept in the table's configuration.

    Raises:
        ValueError: If there are fewer than 256 passages, or `recall` is not between 0 and 1.
    """
    if size < SMALLEST:
        raise ValueError(f"An index needs {SMALLEST} passages, the store has {size}: it is searched exactly.")
    if not 0 < recall <= 1:
        raise ValueError(f"`recall` must be above 0 and at most 1, got {recall}.")
    options = {"num_partitions": max(1, round(size**0.5)), **options}
    if index_type == "IVF_RQ":
        options.setdefault("num_bits", 1)
    # until the effort is known the index is not used
    dataset.delete_config_keys(list(EFFORT))
    dataset.create_index("vector", index_type, name=VECTOR_INDEX, metric="dot", replace=True, **options)
    if questions is None:
        rows = np.linspace(0, size - 1, min(TESTS, size)).astype(np.int64)
        found = dataset.take(np.unique(rows), columns=["vector"]).column(0).combine_chunks()
        questions = torch.from_numpy(found.flatten().to_numpy().reshape(len(found), -1).astype(np.float32))
    questions = torch.nn.functional.normalize(questions[:TESTS].float(), dim=1)
    places = Places(dataset)
    vectors = Vectors(dataset, places, uri, questions.shape[1])
    truth = exact(dataset, places, vectors, questions, AT)[0]
    effort = choose_effort(
        lambda effort: approximate(dataset, places, vectors, questions, AT, effort)[0],
        truth,
        recall,
        options["num_partitions"],
    )
    dataset.update_config({name: str(value) for name, value in zip(EFFORT, effort, strict=True)})
    return effort


def choose_effort(find: Callable[[Effort], Tensor], truth: Tensor, recall: float, partitions: int) -> Effort:
    """The quickest effort that surely finds `recall` of the nearest five; the greatest if none does.

    Args:
        find: Gives the scores (Q, 5) that an effort finds.
        truth: The true scores (Q, 5).
        recall: As above.
        partitions: Cells of the index.
    """
    best, least = Effort(partitions, REFINED[-1]), math.inf
    for refine in REFINED:
        for share in PROBED:
            effort = Effort(max(1, round(share * partitions)), refine)
            start = time.perf_counter()
            reached = reaches(find(effort), truth, recall)
            seconds = time.perf_counter() - start
            if reached and seconds < least:
                best, least = effort, seconds
            if reached or seconds > least:
                break
    return best


def recall_at(found: Tensor, truth: Tensor) -> float:
    """Mean of `recalls`."""
    return float(recalls(found, truth).mean())


def recalls(found: Tensor, truth: Tensor) -> Tensor:
    """(Q,) shares of the K places whose score (Q, K') is no lower than the last true one (Q, K).

    By scores, as ann-benchmarks counts (arXiv 1807.05614): of two equal passages one is as good as the other.
    """
    right = (found >= truth[:, -1:] - EQUAL).sum(dim=1).clamp(max=truth.shape[1])
    return right / truth.shape[1]


def reaches(found: Tensor, truth: Tensor, recall: float) -> bool:
    """Whether so much is found of other questions too: the lower end of a one-sided 95 % interval."""
    shares = recalls(found, truth)
    return float(shares.mean() - 1.645 * shares.std(correction=0) / len(shares) ** 0.5) >= recall
