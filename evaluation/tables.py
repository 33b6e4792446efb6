"""Reports as files, Markdown tables, and how intervals stand in them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_report(stem: Path, document: Mapping[str, Any], page: str) -> None:
    """Writes `stem`.json and `stem`.md into a folder, made if absent."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    Path(f"{stem}.json").write_text(text, encoding="utf-8")
    Path(f"{stem}.md").write_text(page, encoding="utf-8")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a header; every row has as many cells as the header."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(interval: Mapping[str, float] | None) -> str:
    """A mean with its interval in percent; a dash where there is none."""
    if interval is None:
        return "–"
    return f"{100 * interval['mean']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"
