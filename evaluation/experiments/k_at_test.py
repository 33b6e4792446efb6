"""How many documents to read at test time (paper figure 8): recall and answers over k, with one model.

Candidates are ranked once by the cosine of search vectors; for each k the best k are read. Loss and scores
are of the same questions for every k, so each is compared with the k that the model was trained for by a
paired test.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clara.modeling_clara import ClaraForRetrievalGeneration

from ..benchmarks import build_benchmark
from ..pool_scores import RECALL, score_pools
from ..sample_rows import question_rows
from ..summaries import SHOWN, differences_table, error_bars, means_table, summarize

NEEDS_MODEL = True
METRICS = (RECALL, *SHOWN)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    parser.add_argument("--files", nargs="+", help="question rows (default: the sample corpus)")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="questions a file (default: 100)")
    parser.add_argument("--ks", type=int, nargs="+", default=[1, 2, 3, 5, 10], help="(default: 1 2 3 5 10)")
    parser.add_argument("--pool-size", type=int, default=20, metavar="N", help="candidates (default: 20)")
    parser.add_argument("--max-new-tokens", type=int, default=32, metavar="N")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals and tests")


def measure(arguments: argparse.Namespace, model: ClaraForRetrievalGeneration) -> dict[str, Any]:
    """Recall, loss and answer scores for every k, as JSON values.

    Raises:
        ValueError: If a k is below 1.
    """
    if min(arguments.ks) < 1:
        raise ValueError(f"`--ks` must be at least 1, got {arguments.ks}.")
    records, source = question_rows(arguments.files, arguments.limit, arguments.pool_size)
    rows = [(str(number), record) for number, record in enumerate(records)]
    benchmark = build_benchmark("k-at-test", "normal", rows, arguments.pool_size)
    _, scores = score_pools(model, benchmark, arguments.ks, arguments.max_new_tokens, arguments.batch_size)
    trained = model.config.retrieval_top_k
    reference = min(arguments.ks, key=lambda k: abs(k - trained))
    return {
        "source": source,
        "questions": len(benchmark.examples),
        "seed": arguments.seed,
        "trained_k": trained,
        **summarize({f"k = {k}": scores[k] for k in arguments.ks}, f"k = {reference}", arguments.seed),
    }


def render(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    note = (
        f"{result['questions']} questions of {result['source']}; the model was trained to read "
        f"{result['trained_k']} documents. Percent (loss: nats a token of the gold answer) with 95 % "
        f"bootstrap intervals, seed {result['seed']}; differences are paired. Recall counts documents."
    )
    means = means_table(result, METRICS, "documents read")
    differences = differences_table(result, METRICS, "documents read")
    return f"# How many documents to read\n\n{note}\n\n{means}\n\n{differences}\n"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Recall and scores over k, and the loss beside them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    ks = [int(name.removeprefix("k = ")) for name in result["means"]]
    for metric in METRICS:
        values = [row[metric] for row in result["means"].values() if metric in row]
        if len(values) == len(ks):
            axes, scale = (right, 1) if metric == "loss" else (left, 100)
            heights, bars = error_bars(values, scale)
            axes.errorbar(ks, heights, yerr=bars, marker="o", capsize=3, label=metric.replace("_", " "))
    left.set(xlabel="documents read (k)", ylabel="percent", ylim=(0, None), xticks=ks)
    right.set(xlabel="documents read (k)", ylabel="loss (nats per token)", xticks=ks)
    for axes in (left, right):
        axes.axvline(result["trained_k"], linestyle=":", color="grey", label="trained for")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
