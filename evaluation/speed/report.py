"""What a benchmark found, as JSON and as Markdown tables."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..tables import markdown_table
from .roofline import Roof, Work
from .timing import Ratio

BUSY = 0.5


@dataclass(frozen=True)
class Line:
    """One variant that was timed.

    Attributes:
        name: The variant.
        seconds: Of every round.
        rates: Units a second at the median round.
        roof: Share of what the machine's measured peak allows; None where no work was counted.
    """

    name: str
    seconds: list[float]
    rates: dict[str, float]
    roof: float | None = None

    @property
    def median(self) -> float:
        """Seconds of the median round."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Section:
    """The result of one benchmark.

    Attributes:
        name: Its name on the command line.
        title: What was measured.
        lines: The variants.
        ratios: How they compare.
        facts: Other numbers, by what they are.
    """

    name: str
    title: str
    lines: list[Line]
    ratios: list[Ratio]
    facts: dict[str, Any] = field(default_factory=dict)


def line(
    name: str,
    seconds: Sequence[float],
    units: Mapping[str, float] | None = None,
    work: Iterable[Work] | None = None,
    roof: Roof | None = None,
) -> Line:
    """A line out of the seconds of a variant.

    Args:
        name: The variant.
        seconds: Of every round.
        units: What one round does, such as `{"tokens": 5000}`.
        work: What one round requires at least.
        roof: The machine's peak.
    """
    median = statistics.median(seconds)
    share = None if work is None or roof is None else roof.seconds(work) / median
    return Line(name, list(seconds), {unit: count / median for unit, count in (units or {}).items()}, share)


def as_document(
    environment: Mapping[str, Any], roofs: Sequence[Roof], sections: Sequence[Section]
) -> dict[str, Any]:
    """Everything as JSON values."""
    return {
        "environment": {**environment, "contended": contended(environment)},
        "peaks": [roof.as_dict() for roof in roofs],
        "sections": [section_document(section) for section in sections],
    }


def section_document(section: Section) -> dict[str, Any]:
    """One section as JSON values."""
    return {
        "name": section.name,
        "title": section.title,
        "variants": [{**asdict(item), "median_seconds": item.median} for item in section.lines],
        "ratios": [{**asdict(item), "reached": item.reached} for item in section.ratios],
        "facts": section.facts,
    }


def contended(environment: Mapping[str, Any]) -> bool:
    """Whether other programs took processors when the run began."""
    load = environment["load_average"]
    return load is not None and load > BUSY * environment["processors"]


def head(environment: Mapping[str, Any], roofs: Sequence[Roof]) -> str:
    """Machine, versions and measured peaks as text."""
    facts = " · ".join(f"{name} {value}" for name, value in environment.items())
    warning = "\n\n**Contended run: other programs were at work; only the ratios mean something.**"
    peaks = " · ".join(
        f"{roof.dtype}: {roof.flops / 1e9:,.0f} GFLOP/s in a product of width {roof.matrix}, "
        f"{roof.bandwidth / 1e9:.1f} GB/s in a copy"
        for roof in roofs
    )
    return f"{facts}{warning if contended(environment) else ''}\n\nMeasured peaks: {peaks}\n"


def section_markdown(section: Section) -> str:
    """One section as text with tables."""
    units = list(dict.fromkeys(unit for item in section.lines for unit in item.rates))
    rows = [_line_cells(item, units) for item in section.lines]
    header = ["variant", "median s", *(f"{unit}/s" for unit in units), "share of the roof"]
    parts = [f"## {section.title}\n", markdown_table(header, rows)]
    if section.ratios:
        header = ["ratio, same work", "median", "min", "max", "needed", "reached"]
        parts += ["", markdown_table(header, [_ratio_cells(item) for item in section.ratios])]
    parts += ["", *(f"- {name}: {_text(value)}" for name, value in section.facts.items())]
    return "\n".join(parts).rstrip() + "\n"


def _line_cells(item: Line, units: Sequence[str]) -> list[str]:
    rates = [f"{item.rates[unit]:,.4g}" if unit in item.rates else "" for unit in units]
    return [item.name, f"{item.median:.4g}", *rates, "" if item.roof is None else f"{item.roof:.0%}"]


def _ratio_cells(item: Ratio) -> list[str]:
    needed = "" if item.needed is None else f"≥ {item.needed:g}"
    reached = {None: "", True: "yes", False: "**no**"}[item.reached]
    return [
        item.name,
        *(f"{value:.2f}" for value in (item.median, item.minimum, item.maximum)),
        needed,
        reached,
    ]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def write_report(folder: Path, document: Mapping[str, Any], page: str) -> None:
    """Writes `bench.json` and `bench.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (folder / "bench.json").write_text(text, encoding="utf-8")
    (folder / "bench.md").write_text(page, encoding="utf-8")
