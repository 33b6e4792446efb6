"""Several compression rates trained at once against one rate: checkpoints read at each rate.

Checkpoints that were trained from one start, on the same rows for as many steps, with one number of memory
tokens or with several (`clara train … --num_memory_tokens 16 8`), answer the same questions from the memories
of their gold documents at each number of memory tokens. At each of them the others are compared with the
first checkpoint, paired.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clara.modeling_clara import ClaraForRetrievalGeneration

from ..devices import choose_device
from ..rates import at_rate
from ..readings import LOSS
from ..reports import Scores
from ..sample_rows import gold_rows
from ..summaries import COLUMNS, SHOWN, differences_table, error_bars, means_table, summarize
from .facts_by_rate import read_at_rate

NEEDS_MODEL = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    parser.add_argument(
        "--models", nargs="+", required=True, metavar="NAME=PATH", help="checkpoints, the reference first"
    )
    parser.add_argument(
        "--memory-tokens", type=int, nargs="+", default=[16, 8, 4], metavar="M", help="(default: 16 8 4)"
    )
    parser.add_argument("--files", nargs="+", help="question rows with positives (default: samples)")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="questions a file (default: 100)")
    parser.add_argument(
        "--max-new-tokens", type=int, default=32, metavar="N", help="longest answer; 0: the loss alone"
    )
    parser.add_argument("--batch-size", type=int, default=16, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals and tests")
    parser.add_argument("--device", help="to measure on (default: the accelerator if there is one)")


def parse_models(models: Sequence[str]) -> dict[str, str]:
    """Name to checkpoint, as given.

    Raises:
        ValueError: If one is no NAME=PATH, a name comes twice, or there are fewer than two.
    """
    found: dict[str, str] = {}
    for model in models:
        name, _, path = model.partition("=")
        if not name or not path or name in found:
            raise ValueError(
                f"`--models` takes NAME=PATH with each name once, such as nested=runs/nested/final, got "
                f"{model!r}."
            )
        found[name] = path
    if len(found) < 2:
        raise ValueError(f"`--models` needs two checkpoints at least to compare, got {list(models)}.")
    return found


def measure(arguments: argparse.Namespace, model: None = None) -> dict[str, Any]:
    """Scores of every checkpoint at every number of memory tokens, as JSON values.

    Raises:
        ValueError: If no question names positives, a rate is not possible, or `--models` is wrong.
    """
    models = parse_models(arguments.models)
    records, source = gold_rows(arguments.files, arguments.limit)
    device = choose_device(arguments.device)
    scores: dict[int, dict[str, Scores]] = {size: {} for size in arguments.memory_tokens}
    for name, path in models.items():
        checkpoint = ClaraForRetrievalGeneration.from_pretrained(path).to(device).eval()
        for size, found in scores.items():
            with at_rate(checkpoint, size):
                found[name] = read_at_rate(checkpoint, records, arguments, f"{name}, {size} tokens")[0]
    reference = next(iter(models))
    return {
        "source": source,
        "questions": len(records),
        "seed": arguments.seed,
        "rates": {str(size): summarize(found, reference, arguments.seed) for size, found in scores.items()},
    }


def render(result: Mapping[str, Any]) -> str:
    """The result as a page, a section for each number of memory tokens."""
    note = (
        f"{result['questions']} questions of {result['source']}, each read from its gold documents. Percent "
        "(loss: nats a token of the gold answer) with 95 % bootstrap intervals over questions, seed "
        f"{result['seed']}; differences are paired. One training run a checkpoint: the spread over training "
        "seeds is not in the intervals."
    )
    parts = ["# Several rates trained at once, against one", note]
    for size, summary in result["rates"].items():
        parts.append(f"## {size} memory tokens a passage")
        parts += [means_table(summary, SHOWN, "checkpoint"), differences_table(summary, SHOWN, "checkpoint")]
    return "\n\n".join(parts) + "\n"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Loss and scores over the number of memory tokens, a line for each checkpoint."""
    from matplotlib.figure import Figure

    rates = {int(size): summary["means"] for size, summary in result["rates"].items()}
    names = list(next(iter(rates.values())))
    shown = [metric for metric in SHOWN if metric in next(iter(rates.values()))[names[0]]]
    figure = Figure(figsize=(4 * len(shown), 4), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for name in names:
            intervals = [means[name][metric] for means in rates.values()]
            heights, bars = error_bars(intervals, 1 if metric == LOSS else 100)
            axes.errorbar(list(rates), heights, yerr=bars, marker="o", capsize=3, label=name)
        axes.set(xscale="log", xlabel="memory tokens a passage", ylabel=COLUMNS.get(metric, metric))
        axes.set_xticks(list(rates), [str(size) for size in rates])
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
