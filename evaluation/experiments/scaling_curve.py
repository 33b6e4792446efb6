"""Examples seen in training against held-out loss and answers, and what the trend says of more training.

Each checkpoint answers the same questions from the memories of their gold documents. A power law is fitted to
the loss (a straight line of log loss over log examples) and a straight line over log examples to the scores;
both are carried on to more examples. The intervals resample the questions, not the training runs: that the
trend goes on is an assumption, and one that fails where the data repeat or the model is full.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from clara.modeling_clara import ClaraForRetrievalGeneration

from ..answer_losses import LOSS
from ..devices import choose_device
from ..gold import gold_memory, read_gold
from ..reports import Scores
from ..sample_rows import gold_rows
from ..summaries import COLUMNS, SHOWN, error_bars, means_table, summarize
from ..tables import markdown_table, nats, percent

NEEDS_MODEL = False
RESAMPLES = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    parser.add_argument(
        "--points", nargs="+", required=True, metavar="EXAMPLES=PATH", help="checkpoints, by examples seen"
    )
    parser.add_argument("--files", nargs="+", help="question rows with positives (default: samples)")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="questions a file (default: 100)")
    parser.add_argument("--ahead", type=int, nargs="+", default=[10, 100], help="times the most examples")
    parser.add_argument("--max-new-tokens", type=int, default=32, metavar="N", help="longest answer")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals")
    parser.add_argument("--device", help="to measure on (default: the accelerator if there is one)")


def parse_points(points: Sequence[str]) -> dict[int, str]:
    """Examples seen to checkpoint, fewest first.

    Raises:
        ValueError: If a point is no EXAMPLES=PATH with EXAMPLES of at least 1, or there are fewer than two.
    """
    found = {}
    for point in points:
        seen, _, path = point.partition("=")
        if not seen.isdigit() or not int(seen) or not path:
            raise ValueError(
                f"`--points` takes EXAMPLES=PATH such as 4800=runs/checkpoint-600, got {point!r}."
            )
        found[int(seen)] = path
    if len(found) < 2:
        raise ValueError(f"`--points` needs checkpoints at two numbers of examples at least, got {points}.")
    return dict(sorted(found.items()))


def measure(arguments: argparse.Namespace, model: None = None) -> dict[str, Any]:
    """Scores of every checkpoint and the trends, as JSON values.

    Raises:
        ValueError: If no question names positives, or `--points` is wrong.
    """
    points = parse_points(arguments.points)
    records, source = gold_rows(arguments.files, arguments.limit)
    device = choose_device(arguments.device)
    conditions: dict[str, Scores] = {}
    for count, path in points.items():
        checkpoint = ClaraForRetrievalGeneration.from_pretrained(path).to(device).eval()
        memory = gold_memory(checkpoint, records, arguments.batch_size)
        conditions[f"{count:,}"] = read_gold(checkpoint, memory, records, arguments, f"{count} examples")
    seen, ahead = list(points), [factor * max(points) for factor in arguments.ahead]
    last = list(conditions)[-1]
    return {
        "source": source,
        "questions": len(records),
        "seed": arguments.seed,
        "examples": seen,
        "trends": {
            metric: trend(seen, [row[metric] for row in conditions.values()], ahead, metric, arguments.seed)
            for metric in SHOWN
        },
        **summarize(conditions, last, arguments.seed),
    }


def trend(
    examples: Sequence[int],
    values: Sequence[Sequence[float]],
    ahead: Sequence[int],
    metric: str,
    seed: int = 0,
) -> dict[str, Any]:
    """The line over log examples, carried on.

    Args:
        examples: P numbers of examples.
        values: P rows of Q per-question values.
        ahead: Numbers of examples to carry the line on to.
        metric: Its logarithm is fitted if it is the loss; other scores stay between 0 and 1.
        seed: Of the intervals.

    Returns:
        `slope` (of log loss, or of the score, over the natural logarithm of the examples) and `ahead`
        (examples to value), each with `mean`, `low`, `high`.
    """
    table = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, table.shape[1], (RESAMPLES, table.shape[1]))
    means = np.concatenate([table.mean(1)[:, None], table[:, draws].mean(-1)], axis=1)
    heights = np.log(means) if metric == LOSS else means
    slope, offset = np.polyfit(np.log(examples), heights, 1)
    found = {}
    for count in ahead:
        line = offset + slope * math.log(count)
        found[str(count)] = _interval(np.exp(line) if metric == LOSS else line.clip(0, 1))
    return {"slope": _interval(slope), "ahead": found}


def _interval(values: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return {"mean": float(values[0]), "low": float(low), "high": float(high)}


def render(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    note = (
        f"{result['questions']} questions of {result['source']}, each read from its gold documents by every "
        "checkpoint. Percent (loss: nats a token of the gold answer) with 95 % bootstrap intervals over "
        f"questions, seed {result['seed']}."
    )
    counts = list(next(iter(result["trends"].values()))["ahead"])
    rows = [
        [
            f"{int(count):,}",
            *((nats if m == LOSS else percent)(result["trends"][m]["ahead"][count]) for m in SHOWN),
        ]
        for count in counts
    ]
    slopes = ", ".join(
        f"{COLUMNS.get(metric, metric)} {result['trends'][metric]['slope']['mean']:.3f}" for metric in SHOWN
    )
    parts = [
        "# More training, what then?",
        note,
        means_table(result, SHOWN, "examples seen"),
        "## The trend, carried on",
        markdown_table(["examples", *(COLUMNS.get(metric, metric) for metric in SHOWN)], rows),
        f"Slopes over the natural logarithm of the examples (of the loss: of its logarithm): {slopes}. The "
        "intervals are over questions alone. That the line goes on is an assumption, not a measurement.",
    ]
    return "\n\n".join(parts) + "\n"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Loss and scores over the examples, with the lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    counts = result["examples"]
    for axes, metric in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        scale = 1 if metric == LOSS else 100
        heights, bars = error_bars([row[metric] for row in result["means"].values()], scale)
        axes.errorbar(counts, heights, yerr=bars, marker="o", capsize=3)
        further = result["trends"][metric]["ahead"]
        ends = [int(count) for count in further]
        heights, bars = error_bars(list(further.values()), scale)
        axes.errorbar(ends, heights, yerr=bars, marker="s", linestyle=":", capsize=3, color="grey")
        axes.set(xscale="log", xlabel="examples seen", ylabel=COLUMNS.get(metric, metric))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
