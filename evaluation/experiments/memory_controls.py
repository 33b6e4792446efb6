"""Does the model read its memories? The loss of the right answer with three kinds of memories.

Each question's answer is scored given the memories of its own gold documents, given those of another question
(`shuffled`, a permutation without fixed points), and given none. A model that ignores its memories shows no
difference. Numbers are nats per answer token, averaged over questions; differences are paired.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clara.modeling_clara import ClaraForRetrievalGeneration
from tqdm.auto import tqdm

from ...train.controls import answer_loss, control_rows, shifted
from ..sample_rows import question_rows
from ..statistics import bootstrap_interval, paired_bootstrap
from ..tables import markdown_table

NEEDS_MODEL = True
KINDS = ("own", "shuffled", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    parser.add_argument("--files", nargs="+", help="question rows with positives (default: sample corpus)")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="questions a file (default: 100)")
    parser.add_argument("--seed", type=int, default=0)


def measure(arguments: argparse.Namespace, model: ClaraForRetrievalGeneration) -> dict[str, Any]:
    """Loss of the answers by kind of memory for every file, as JSON values."""
    results = {}
    for file in arguments.files or [None]:
        records, source = question_rows(None if file is None else [file])
        rows = control_rows(records, arguments.limit)
        losses = row_losses(model, rows, arguments.seed, source)
        own = losses["own"]
        results[source.removesuffix(".jsonl")] = {
            "questions": len(rows),
            "loss": {kind: asdict(bootstrap_interval(losses[kind], seed=arguments.seed)) for kind in KINDS},
            "shuffled_minus_own": asdict(paired_bootstrap(losses["shuffled"], own, seed=arguments.seed)),
            "none_minus_own": asdict(paired_bootstrap(losses["none"], own, seed=arguments.seed)),
        }
    return {"seed": arguments.seed, "files": results}


def row_losses(
    model: ClaraForRetrievalGeneration, rows: Sequence[tuple], seed: int, name: str
) -> dict[str, list[float]]:
    """Mean loss per answer token of each question, by kind of memory."""
    other = shifted(len(rows), seed)
    losses: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for place, row in enumerate(tqdm(rows, desc=name, unit="question")):
        documents = {"own": row[2], "shuffled": rows[other[place]][2], "none": []}
        for kind in KINDS:
            total, tokens = answer_loss(model, [row], [documents[kind]])
            losses[kind].append(total / tokens)
    return losses


def render(result: Mapping[str, Any]) -> str:
    """The result as a Markdown page."""
    rows = [
        [
            name,
            str(found["questions"]),
            *(_interval(found["loss"][kind], "mean") for kind in KINDS),
            _interval(found["shuffled_minus_own"], "difference"),
            _interval(found["none_minus_own"], "difference"),
        ]
        for name, found in result["files"].items()
    ]
    header = ["questions from", "questions", *KINDS, "shuffled - own", "none - own"]
    return (
        "# Answer loss by memory\n\n"
        "Nats per token of the right answer, with 95 % bootstrap intervals; differences are paired.\n\n"
        f"{markdown_table(header, rows)}\n"
    )


def _interval(values: Mapping[str, float], name: str) -> str:
    return f"{values[name]:.2f} ({values['low']:.2f} to {values['high']:.2f})"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Bars of the loss by file and kind of memory, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + 1.4 * len(result["files"]), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, kind in enumerate(KINDS):
        found = [values["loss"][kind] for values in result["files"].values()]
        spread = [[v["mean"] - v["low"] for v in found], [v["high"] - v["mean"] for v in found]]
        columns = [column + (place - 1) * 0.27 for column in range(len(found))]
        axes.bar(columns, [v["mean"] for v in found], width=0.25, yerr=spread, capsize=3, label=kind)
    axes.set(ylabel="answer loss (nats per token)", xticks=range(len(result["files"])))
    axes.set_xticklabels(list(result["files"]))
    axes.legend()
    figure.savefig(path, dpi=110)
