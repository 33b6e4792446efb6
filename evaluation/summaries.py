"""Per-question values of several conditions, as means with intervals and paired comparisons (JSON values)."""

from collections.abc import Mapping, Sequence
from typing import Any

from .answer_losses import LOSS
from .reports import TITLES, Scores
from .statistics import bootstrap_interval, paired_bootstrap
from .tables import difference, markdown_table, nats, percent

SHOWN = (LOSS, "token_f1", "cover_exact_match")
COLUMNS = {**TITLES, LOSS: "loss (nats)"}


def summarize(conditions: Mapping[str, Scores], reference: str, seed: int) -> dict[str, Any]:
    """Means of every condition, and what each differs from the reference on the same questions.

    Args:
        conditions: Condition to scores; a metric holds one value for each question, the same in all.
        reference: The condition that the others are compared with.
        seed: Of the intervals and tests.

    Returns:
        `reference`, `means` (condition, metric) and `differences` (condition, metric).
    """
    means = {
        name: {metric: vars(bootstrap_interval(values, seed=seed)) for metric, values in scores.items()}
        for name, scores in conditions.items()
    }
    base = conditions[reference]
    differences = {
        name: {
            metric: vars(paired_bootstrap(values, base[metric], seed=seed))
            for metric, values in scores.items()
            if metric in base
        }
        for name, scores in conditions.items()
        if name != reference
    }
    return {"reference": reference, "means": means, "differences": differences}


def means_table(summary: Mapping[str, Any], metrics: Sequence[str], label: str = "condition") -> str:
    """Markdown: a row for each condition, a column for each metric that some condition has."""
    kept = [metric for metric in metrics if any(metric in row for row in summary["means"].values())]
    rows = [
        [name, *(nats(row.get(m)) if m == LOSS else percent(row.get(m)) for m in kept)]
        for name, row in summary["means"].items()
    ]
    return markdown_table([label, *(COLUMNS.get(metric, metric) for metric in kept)], rows)


def differences_table(summary: Mapping[str, Any], metrics: Sequence[str], label: str = "condition") -> str:
    """Markdown: what each condition differs from the reference, with interval and p-value."""
    kept = [metric for metric in metrics if any(metric in row for row in summary["differences"].values())]
    rows = [
        [name, *(_difference(row.get(metric), metric) for metric in kept)]
        for name, row in summary["differences"].items()
    ]
    header = [f"{label}, against {summary['reference']}", *(COLUMNS.get(metric, metric) for metric in kept)]
    return markdown_table(header, rows)


def _difference(compared: Mapping[str, float] | None, metric: str) -> str:
    if compared is None:
        return "–"
    return difference(compared, 1, 2) if metric == LOSS else difference(compared)


def error_bars(intervals: Sequence[Mapping[str, float]], scale: float = 100) -> tuple[list, list]:
    """Heights and the two lengths of their bars, for matplotlib."""
    means = [scale * interval["mean"] for interval in intervals]
    below = [scale * (interval["mean"] - interval["low"]) for interval in intervals]
    above = [scale * (interval["high"] - interval["mean"]) for interval in intervals]
    return means, [below, above]
