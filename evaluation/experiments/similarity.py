"""Do memories keep the semantic similarity of their documents?

The neighbours of each document by the cosine of search vectors are compared with those by a sentence encoder:
overlap of the k nearest, and rank correlation over all pairs. Two readings are compared: `own` (the model's
own score) and `centred` (the mean vector of the corpus is taken off first, since hidden states share a large
common direction).
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from clara.modeling_clara import ClaraForRetrievalGeneration
from torch import Tensor
from torch.nn import functional

from ..baselines import load_sentence_encoder
from ..sample_rows import question_rows
from ..statistics import bootstrap_interval
from ..tables import markdown_table

NEEDS_MODEL = True
READINGS = ("own", "centred")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    parser.add_argument("--file", help="question rows whose documents are compared (default: sample corpus)")
    parser.add_argument("--documents", type=int, default=500, metavar="N", help="documents (default: 500)")
    parser.add_argument("--ks", type=int, nargs="+", default=[1, 5, 10], help="neighbours (default: 1 5 10)")
    parser.add_argument("--encoder", help="sentence encoder (default: all-MiniLM-L6-v2)")
    parser.add_argument("--seed", type=int, default=0)


def measure(arguments: argparse.Namespace, model: ClaraForRetrievalGeneration) -> dict[str, Any]:
    """Overlap and rank correlation of each reading with the sentence encoder, as JSON values."""
    texts, source = drawn_documents(arguments.file, arguments.documents, arguments.seed)
    memory = model.build_memory(texts)
    firsts = [row for row, order in enumerate(memory.orders) if order == 0]
    embeddings = load_sentence_encoder(arguments.encoder).encode(
        texts, batch_size=32, normalize_embeddings=True, show_progress_bar=True
    )
    reference = embeddings @ embeddings.T
    readings = {name: similarities(memory.vectors[firsts], name).numpy() for name in READINGS}
    return {
        "documents": len(texts),
        "file": source,
        "seed": arguments.seed,
        "chance": {str(k): k / (len(texts) - 1) for k in arguments.ks},
        "readings": {
            name: {
                "rank_correlation": rank_correlation(pairs(scores), pairs(reference)),
                "mean_cosine": float(pairs(scores).mean()),
                "overlap": {
                    str(k): vars(
                        bootstrap_interval(neighbour_overlap(scores, reference, k), seed=arguments.seed)
                    )
                    for k in arguments.ks
                },
            }
            for name, scores in readings.items()
        },
    }


def drawn_documents(file: str | None, count: int, seed: int) -> tuple[list[str], str]:
    """Distinct documents of a file's rows or of the sample corpus, drawn at random, and their source.

    Raises:
        ValueError: the file has fewer than two documents.
    """
    records, source = question_rows(None if file is None else [file])
    texts = list(dict.fromkeys(text for record in records for text in record.documents))
    if len(texts) < 2:
        raise ValueError(f"`file` {source} has {len(texts)} documents: at least two are needed to compare.")
    order = np.random.default_rng(seed).permutation(len(texts))[:count]
    return [texts[index] for index in sorted(order)], source


def similarities(vectors: Tensor, reading: str) -> Tensor:
    """Cosines between search vectors: (N, D) -> (N, N).

    Args:
        vectors: (N, D) in float32.
        reading: one of `READINGS`.
    """
    if reading == "centred":
        vectors = vectors - vectors.mean(dim=0)
    vectors = functional.normalize(vectors, dim=-1)
    return vectors @ vectors.T


def neighbour_overlap(first: np.ndarray, second: np.ndarray, k: int) -> list[float]:
    """For each document the share of its k nearest by `first` that are among its k nearest by `second`.

    Args:
        first: (N, N) similarities.
        second: (N, N) similarities.
        k: neighbours, without the document itself.

    Raises:
        ValueError: k is not between 1 and N - 1.
    """
    if not 1 <= k < len(first):
        raise ValueError(f"`k` must be between 1 and the {len(first) - 1} other documents, got {k}.")
    rows = zip(_nearest(first, k), _nearest(second, k), strict=True)
    return [len(set(mine) & set(theirs)) / k for mine, theirs in rows]


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two lists of numbers without ties."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def pairs(scores: np.ndarray) -> np.ndarray:
    """The values above the diagonal: (N, N) -> (N (N - 1) / 2,)."""
    return scores[np.triu_indices(len(scores), k=1)]


def render(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    ks = list(result["chance"])
    rows = [
        [name, f"{row['rank_correlation']:.3f}", f"{row['mean_cosine']:.3f}"]
        + [_interval(row["overlap"][k]) for k in ks]
        for name, row in result["readings"].items()
    ]
    rows.append(["by chance", "0", ""] + [f"{100 * result['chance'][k]:.1f}" for k in ks])
    header = ["reading", "rank correlation", "mean cosine", *(f"overlap of {k} nearest (%)" for k in ks)]
    note = (
        f"{result['documents']} documents of {result['file']}, seed {result['seed']}; against a sentence "
        "encoder, overlap with 95 % bootstrap intervals over documents."
    )
    return f"# Semantic similarity of memories\n\n{note}\n\n{markdown_table(header, rows)}\n"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Overlap over the number of neighbours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    ks = [int(k) for k in result["chance"]]
    for name, row in result["readings"].items():
        values = [row["overlap"][str(k)] for k in ks]
        bars = [[v["mean"] - v["low"] for v in values], [v["high"] - v["mean"] for v in values]]
        axes.errorbar(ks, [v["mean"] for v in values], yerr=bars, marker="o", capsize=3, label=name)
    axes.plot(ks, list(result["chance"].values()), linestyle=":", color="grey", label="by chance")
    axes.set(xlabel="neighbours", ylabel="overlap with the sentence encoder", ylim=(0, 1))
    axes.legend()
    figure.savefig(path, dpi=150)


def _nearest(scores: np.ndarray, k: int) -> np.ndarray:
    others = scores.astype(np.float64).copy()
    np.fill_diagonal(others, -np.inf)
    return np.argsort(-others, axis=1, kind="stable")[:, :k]


def _ranks(values: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def _interval(interval: Mapping[str, float]) -> str:
    return f"{100 * interval['mean']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"
