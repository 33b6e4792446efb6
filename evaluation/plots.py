"""Pictures of a report: answer quality against tokens read by the generator and against bytes stored."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

AXES = {
    "tokens_read": "tokens read by the generator per question",
    "bytes_per_passage": "bytes stored per passage",
}
MARKS = "osP^<DdvX*>p"
TICKS = [0, *(step * 10**power for power in range(1, 8) for step in (1, 3))]
ALIKE = 0.1  # costs closer than e^0.1 share a column; its points stand a hundredth of the axis apart


def plot_quality(report: Mapping[str, Any], cost: str, path: Path) -> None:
    """Writes a PNG with one point per system: its cost, and its mean F1 with the 95 % interval.

    What reads decides the colour, what retrieves the mark. Systems of one cost stand beside each other. The
    cost is "tokens_read" or "bytes_per_passage".
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter

    systems = report["systems"]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    readers, others = (list(dict.fromkeys(name.partition("_")[part] for name in systems)) for part in (0, 2))
    places = spread({name: row[cost] for name, row in systems.items()})
    for name, row in systems.items():
        reader, _, rest = name.partition("_")
        interval = row["metrics"]["token_f1"]
        mean, low, high = (100 * interval[key] for key in ("mean", "low", "high"))
        axes.errorbar(
            places[name],
            mean,
            yerr=[[mean - low], [high - mean]],
            fmt=MARKS[others.index(rest) % len(MARKS)],
            color=f"C{readers.index(reader)}",
            elinewidth=1,
            capsize=2,
            label=name,
        )
    axes.set_xscale("symlog", linthresh=10)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    smallest, largest = min(places.values()), max(places.values())
    axes.set_xlim(-2 if smallest < 10 else smallest / 1.3, largest * 1.3 + 1)
    axes.set_ylim(bottom=0)
    title = f"{report['benchmark']}, {report['setting']}: {report['questions']} questions, 95 % intervals"
    axes.set(xlabel=AXES[cost], ylabel="F1 (%)", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def spread(costs: Mapping[str, float]) -> dict[str, float]:
    """Places on a logarithmic axis: systems of nearly one cost beside each other around it."""
    columns: list[list[str]] = []
    for name in sorted(costs, key=costs.get):
        last = columns[-1][-1] if columns else None
        if last is None or math.log(1 + costs[name]) - math.log(1 + costs[last]) > ALIKE:
            columns.append([])
        columns[-1].append(name)
    step = 0.01 * math.log((1 + max(costs.values())) / (1 + min(costs.values())))
    return {
        name: costs[name] * math.exp(step * (place - (len(column) - 1) / 2))
        for column in columns
        for place, name in enumerate(sorted(column, key=list(costs).index))
    }
