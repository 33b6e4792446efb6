"""Markdown tables, and how intervals and differences stand in them."""

from collections.abc import Mapping, Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a header; every row has as many cells as the header."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(interval: Mapping[str, float] | None) -> str:
    """A mean with its interval in percent; a dash where there is none."""
    if interval is None:
        return "–"
    return f"{100 * interval['mean']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def nats(interval: Mapping[str, float] | None) -> str:
    """A mean with its interval as it is, to two places; a dash where there is none."""
    if interval is None:
        return "–"
    return f"{interval['mean']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"


def difference(compared: Mapping[str, float], scale: float = 100, places: int = 1) -> str:
    """A signed difference with its interval and p-value; in percent by default."""
    values = (scale * compared[name] for name in ("difference", "low", "high"))
    middle, low, high = (f"{value:+.{places}f}" for value in values)
    return f"{middle} [{low}, {high}], p = {compared['p_value']:.4f}"
