"""Several compression rates trained at once against one rate: checkpoints read at each rate.

Checkpoints that were trained from one start, on the same rows for as many steps, at one compression rate or
at several (`clara train … --compression_rates 4 8 16`), answer the same questions from the memories of their
gold documents at each rate. At each of them the others are compared with the first checkpoint, paired.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clara.modeling_clara import ClaraForRetrievalGeneration

from ..answer_losses import LOSS
from ..devices import choose_device
from ..gold import gold_memory, read_gold
from ..rates import coarser, rate_factor
from ..reports import Scores
from ..sample_rows import gold_rows
from ..summaries import COLUMNS, SHOWN, differences_table, error_bars, means_table, summarize

NEEDS_MODEL = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    parser.add_argument(
        "--models", nargs="+", required=True, metavar="NAME=PATH", help="checkpoints, the reference first"
    )
    parser.add_argument(
        "--rates", type=int, nargs="+", default=[4, 8, 16], metavar="R", help="(default: 4 8 16)"
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
    """Scores of every checkpoint at every rate, as JSON values.

    Raises:
        ValueError: If no question names positives, a rate is no multiple of a checkpoint's, or `--models` is
            wrong.
    """
    models = parse_models(arguments.models)
    records, source = gold_rows(arguments.files, arguments.limit)
    device = choose_device(arguments.device)
    scores: dict[int, dict[str, Scores]] = {rate: {} for rate in arguments.rates}
    for name, path in models.items():
        checkpoint = ClaraForRetrievalGeneration.from_pretrained(path).to(device).eval()
        factors = {rate: rate_factor(checkpoint.config, rate) for rate in scores}
        memory = gold_memory(checkpoint, records, arguments.batch_size)
        for rate, found in scores.items():
            read = coarser(memory, factors[rate])
            found[name] = read_gold(checkpoint, read, records, arguments, f"{name}, rate {rate}")
    reference = next(iter(models))
    return {
        "source": source,
        "questions": len(records),
        "seed": arguments.seed,
        "rates": {str(rate): summarize(found, reference, arguments.seed) for rate, found in scores.items()},
    }


def render(result: Mapping[str, Any]) -> str:
    """The result as a page, a section for each rate."""
    note = (
        f"{result['questions']} questions of {result['source']}, each read from its gold documents. Percent "
        "(loss: nats a token of the gold answer) with 95 % bootstrap intervals over questions, seed "
        f"{result['seed']}; differences are paired. One training run a checkpoint: the spread over training "
        "seeds is not in the intervals."
    )
    parts = ["# Several rates trained at once, against one", note]
    for rate, summary in result["rates"].items():
        parts.append(f"## {rate} tokens a vector")
        parts += [means_table(summary, SHOWN, "checkpoint"), differences_table(summary, SHOWN, "checkpoint")]
    return "\n\n".join(parts) + "\n"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Loss and scores over the rate, a line for each checkpoint."""
    from matplotlib.figure import Figure

    rates = {int(rate): summary["means"] for rate, summary in result["rates"].items()}
    names = list(next(iter(rates.values())))
    shown = [metric for metric in SHOWN if metric in next(iter(rates.values()))[names[0]]]
    figure = Figure(figsize=(4 * len(shown), 4), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for name in names:
            intervals = [means[name][metric] for means in rates.values()]
            heights, bars = error_bars(intervals, 1 if metric == LOSS else 100)
            axes.errorbar(list(rates), heights, yerr=bars, marker="o", capsize=3, label=name)
        axes.set(xscale="log", xlabel="tokens a memory vector", ylabel=COLUMNS.get(metric, metric))
        axes.set_xticks(list(rates), [str(rate) for rate in rates])
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
