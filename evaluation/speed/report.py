"""What a benchmark found, as JSON and as Markdown tables."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..tables import markdown_table
from .timing import Ratio

BUSY = 0.5


@dataclass(frozen=True)
class Line:
    """One variant that was timed.

    Attributes:
        name: The variant.
        seconds: Of every round.
        rates: Units a second at the median round.
    """

    name: str
    seconds: list[float]
    rates: dict[str, float]

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


def line(name: str, seconds: Sequence[float], units: Mapping[str, float] | None = None) -> Line:
    """A line out of the seconds of a variant.

    Args:
        name: The variant.
        seconds: Of every round.
        units: What one round does, such as `{"tokens": 5000}`.
    """
    median = statistics.median(seconds)
    return Line(name, list(seconds), {unit: count / median for unit, count in (units or {}).items()})


def as_document(environment: Mapping[str, Any], sections: Sequence[Section]) -> dict[str, Any]:
    """Everything as JSON values."""
    return {
        "environment": {**environment, "contended": contended(environment)},
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


def head(environment: Mapping[str, Any]) -> str:
    """Machine and versions as text."""
    facts = " · ".join(f"{name} {value}" for name, value in environment.items())
    warning = "\n\n**Contended run: other programs were at work; only the ratios mean something.**"
    return f"{facts}{warning if contended(environment) else ''}\n"


def section_markdown(section: Section) -> str:
    """One section as text with tables."""
    units = list(dict.fromkeys(unit for item in section.lines for unit in item.rates))
    rows = [_line_cells(item, units) for item in section.lines]
    header = ["variant", "median s", *(f"{unit}/s" for unit in units)]
    parts = [f"## {section.title}\n", markdown_table(header, rows)]
    if section.ratios:
        header = ["ratio, same work", "median", "min", "max", "needed", "reached"]
        parts += ["", markdown_table(header, [_ratio_cells(item) for item in section.ratios])]
    parts += ["", *(f"- {name}: {_text(value)}" for name, value in section.facts.items())]
    return "\n".join(parts).rstrip() + "\n"


def _line_cells(item: Line, units: Sequence[str]) -> list[str]:
    rates = [f"{item.rates[unit]:,.4g}" if unit in item.rates else "" for unit in units]
    return [item.name, f"{item.median:.4g}", *rates]


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
