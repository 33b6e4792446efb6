"""Pictures of a report: answer quality against tokens read by the generator and against bytes stored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

AXES = {
    "tokens_read": "tokens read by the generator per question",
    "bytes_per_passage": "bytes stored per passage",
}


def plot_quality(report: Mapping[str, Any], cost: str, path: Path, metric: str = "token_f1") -> None:
    """Writes a PNG with one point per system: its cost, and its mean with the 95 % interval.

    Args:
        report: of `reports.make_report`.
        cost: "tokens_read" or "bytes_per_passage".
        path: of the PNG file.
        metric: what the height shows.

    Raises:
        ValueError: `cost` is unknown.
    """
    from matplotlib.figure import Figure

    if cost not in AXES:
        raise ValueError(f"`cost` must be one of {', '.join(AXES)}, got {cost!r}.")
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, row) in enumerate(report["systems"].items()):
        interval = row["metrics"][metric]
        mean, low, high = (100 * interval[key] for key in ("mean", "low", "high"))
        axes.errorbar(
            row[cost],
            mean,
            yerr=[[mean - low], [high - mean]],
            fmt="osD^vP*X"[number % 8],
            color=f"C{number % 10}",
            capsize=3,
            clip_on=False,
            label=name,
        )
    axes.set_xscale("symlog", linthresh=10)
    axes.set_ylim(bottom=0)
    axes.set(xlabel=AXES[cost], ylabel=f"{metric} (%)", title=f"{report['benchmark']}, {report['setting']}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
