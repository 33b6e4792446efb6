"""What a benchmark found: sections as JSON values, and as Markdown tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from ..tables import markdown_table
from .timing import Runs, measure

Section = dict[str, Any]


def variant(name: str, seconds: Sequence[float], **units: float) -> dict[str, Any]:
    """One variant that was timed, with the seconds of every round.

    `units` are what one round does, such as `tokens=5000`; the rates are those of the median round.
    """
    middle = median(seconds)
    rates = {unit: count / middle for unit, count in units.items()}
    return {"name": name, "seconds": list(seconds), "rates": rates, "median_seconds": middle}


def ratio(
    name: str, slow: Sequence[float], fast: Sequence[float], needed: float | None = None, work: float = 1.0
) -> dict[str, Any]:
    """How many times as long one variant takes as another, compared round by round, over seconds of each.

    `needed` is what the median has to reach; the slow one does `work` times the work of the fast one.
    """
    values = [one / other / work for one, other in zip(slow, fast, strict=True)]
    middle = median(values)
    found = {"name": name, "median": middle, "minimum": min(values), "maximum": max(values)}
    return {**found, "needed": needed, "reached": None if needed is None else middle >= needed}


def section(
    name: str,
    title: str,
    variants: Sequence[Mapping] = (),
    ratios: Sequence[Mapping] = (),
    facts: Mapping[str, Any] | None = None,
) -> Section:
    """The result of one benchmark: what was measured, the variants, how they compare, other numbers."""
    found = {"name": name, "title": title, "variants": list(variants), "ratios": list(ratios)}
    return {**found, "facts": dict(facts or {})}


@dataclass(frozen=True)
class Comparison:
    """Variants that all do the same work, not yet measured."""

    name: str
    title: str  # what is measured
    runs: Runs  # the variants as of `measure`; the first is compared with each of the others
    needed: Mapping[str, float]  # the ratios that have to be reached, by variant
    units: Mapping[str, float]  # what one round does
    facts: Mapping[str, Any]  # other numbers, by what they are

    def section(self, repeats: int, device: torch.device) -> Section:
        """Measures all variants in so many rounds."""
        seconds = measure(self.runs, repeats, device)
        first, *others = self.runs
        variants = [variant(name, seconds[name], **self.units) for name in self.runs]
        ratios = [
            ratio(f"{other} against {first}", seconds[other], seconds[first], self.needed.get(other))
            for other in others
        ]
        return section(self.name, self.title, variants, ratios, self.facts)


def head(environment: Mapping[str, Any]) -> str:
    """Machine and versions as text."""
    facts = " · ".join(f"{name} {value}" for name, value in environment.items())
    warning = "\n\n**Contended run: other programs were at work; only the ratios mean something.**"
    return f"{facts}{warning if environment['contended'] else ''}\n"


def to_markdown(found: Section) -> str:
    """One section as text with tables."""
    parts = [f"## {found['title']}\n"]
    if found["variants"]:
        units = list(dict.fromkeys(unit for row in found["variants"] for unit in row["rates"]))
        rows = [
            [row["name"], f"{row['median_seconds']:.4g}"]
            + [f"{row['rates'][unit]:,.4g}" if unit in row["rates"] else "" for unit in units]
            for row in found["variants"]
        ]
        parts += [markdown_table(["variant", "median s", *(f"{unit}/s" for unit in units)], rows), ""]
    if found["ratios"]:
        header = ["ratio, same work", "median", "min", "max", "needed", "reached"]
        parts += [markdown_table(header, [_ratio_cells(row) for row in found["ratios"]]), ""]
    parts += [f"- {name}: {_text(value)}" for name, value in found["facts"].items()]
    return "\n".join(parts).rstrip() + "\n"


def _ratio_cells(row: Mapping[str, Any]) -> list[str]:
    values = [f"{row[key]:.2f}" for key in ("median", "minimum", "maximum")]
    needed = "" if row["needed"] is None else f"≥ {row['needed']:g}"
    return [row["name"], *values, needed, {None: "", True: "yes", False: "**no**"}[row["reached"]]]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
