"""The index of vectors: its kind, and how hard it is searched, chosen by questions.

On this machine it is a graph (graph.py); on object storage, or by choice, an index of Lance's own.

Letters of the shapes: Q questions, D width of a search vector.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .graph import EFFORTS, Graph, by_graph, graph_facts, keep_graph, make_graph
from .places import Places, local_folder
from .search import VECTOR_INDEX, Effort, approximate, exact, index_names
from .vectors import Vectors

GRAPH, LANCE = "HNSW", "IVF_RQ"
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
    index_type: str | None = None,
    show_progress: bool = False,
    **options: Any,
) -> None:
    """Builds the index and chooses the quickest effort that surely finds `recall` of the exact five nearest.

    The effort is kept in the table's configuration.

    Args:
        dataset: The Lance dataset, at its latest version.
        uri: Where it lies.
        size: Its rows.
        questions: (Q, D) search vectors of questions. Default: of a graph the effort 1,024; else 256 vectors
            of the dataset choose.
        recall: As above.
        index_type: "HNSW" (a graph, the default on this machine), or one of Lance's, such as "IVF_RQ".
        show_progress: Show a progress bar (of a graph).
        **options: Of Lance's `create_index`.

    Raises:
        ValueError: If there are fewer than 256 passages, `recall` is not between 0 and 1, or a graph is asked
            for on object storage or with options.
        ModuleNotFoundError: If a graph is asked for without FAISS.
    """
    folder = local_folder(uri)
    index_type = index_type or (LANCE if folder is None else GRAPH)
    if size < SMALLEST:
        raise ValueError(f"An index needs {SMALLEST} passages, the store has {size}: it is searched exactly.")
    if not 0 < recall <= 1:
        raise ValueError(f"`recall` must be above 0 and at most 1, got {recall}.")
    if index_type != GRAPH:
        _build_lance(dataset, uri, size, questions, recall, index_type, options)
        if folder is not None:
            keep_graph(dataset, folder, None)
    elif folder is not None and not options:
        _build_graph(dataset, uri, questions, recall, show_progress)
    else:
        raise ValueError(
            f"`index_type` 'HNSW' needs a store on this machine and takes no options, got {uri} and "
            f"{sorted(options)}: name one of Lance's, such as 'IVF_RQ'."
        )


def _build_graph(
    dataset: Any, uri: str, questions: Tensor | None, recall: float, show_progress: bool
) -> None:
    folder, places = local_folder(uri), Places(dataset)
    vectors = Vectors(dataset, places, uri, _width(dataset))
    facts = make_graph(dataset, folder, places, vectors, show_progress)
    if questions is not None:
        graph, asked = Graph(folder, facts), _units(questions)
        truth = exact(dataset, places, vectors, asked, AT)[0]

        def enough(effort: int) -> bool:
            tried = {**facts, "effort": effort}
            return reaches(by_graph(dataset, places, vectors, graph, asked, AT, tried)[0], truth, recall)

        facts["effort"] = next(filter(enough, EFFORTS), EFFORTS[-1])
    if VECTOR_INDEX in index_names(dataset):
        dataset.drop_index(VECTOR_INDEX)
    keep_graph(dataset, folder, facts)


def renew_graph(dataset: Any, uri: str) -> None:
    """Builds the graph of a version again, with the effort it had, if it lacks rows that the version has."""
    folder, facts = local_folder(uri), graph_facts(dataset)
    if folder is None or facts is None:
        return
    if {fragment.fragment_id for fragment in dataset.get_fragments()} != set(facts["fragments"]):
        places = Places(dataset)
        vectors = Vectors(dataset, places, uri, _width(dataset))
        made = make_graph(dataset, folder, places, vectors)
        keep_graph(dataset, folder, {**made, "effort": facts["effort"]})


def _width(dataset: Any) -> int:
    return dataset.schema.field("vector").type.list_size


def _units(questions: Tensor) -> Tensor:
    return torch.nn.functional.normalize(questions[:TESTS].float(), dim=1)


def _build_lance(
    dataset: Any,
    uri: str,
    size: int,
    questions: Tensor | None,
    recall: float,
    index_type: str,
    options: dict[str, Any],
) -> None:
    options = {"num_partitions": max(1, round(size**0.5)), **options}
    if index_type == LANCE:
        options.setdefault("num_bits", 1)
    # until the effort is known the index is not used
    dataset.delete_config_keys(list(EFFORT))
    dataset.create_index("vector", index_type, name=VECTOR_INDEX, metric="dot", replace=True, **options)
    if questions is None:
        rows = np.linspace(0, size - 1, min(TESTS, size)).astype(np.int64)
        found = dataset.take(np.unique(rows), columns=["vector"]).column(0).combine_chunks()
        questions = torch.from_numpy(found.flatten().to_numpy().reshape(len(found), -1).astype(np.float32))
    questions = _units(questions)
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
