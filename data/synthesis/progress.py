"""Shows the progress of all ranks from the files that they write."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .report import total_progress


def describe(totals: dict[str, int], input_price: float = 0.0, output_price: float = 0.0) -> str:
    """Says calls, tokens, yield and cost in one line; prices are for one million tokens."""
    yielded = totals["accepted"] / totals["items"] if totals["items"] else 0.0
    tokens = (totals["prompt_tokens"] + totals["completion_tokens"]) / 1e3
    cost = (totals["prompt_tokens"] * input_price + totals["completion_tokens"] * output_price) / 1e6
    line = f"{totals['calls']} calls, {tokens:.1f}k tokens, yield {yielded:.0%}"
    return f"{line}, cost {cost:.2f}" if input_price or output_price else line


@contextmanager
def shown_progress(
    folder: str | Path, total: int, prices: tuple[float, float] = (0.0, 0.0)
) -> Iterator[None]:
    """Draws a bar of documents, calls, tokens, yield and remaining time while the block runs.

    Args:
        folder: the synthesis' output folder.
        total: passages (or questions) in all.
        prices: of one million read and one million written tokens.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    ended = threading.Event()
    with Progress(*columns, refresh_per_second=2) as bar:
        task = bar.add_task("starting", total=total)
        watcher = threading.Thread(target=_watch, args=(Path(folder), bar, task, ended, prices), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _watch(folder: Path, bar: Any, task: Any, ended: threading.Event, prices: tuple[float, float]) -> None:
    """Reads the ranks' files twice a second, and once more at the end."""
    while True:
        over = ended.wait(0.5)
        try:
            totals = total_progress(folder)
        except (OSError, json.JSONDecodeError):  # a rank is just writing its first file on a slow file system
            totals = None
        if totals:
            bar.update(task, completed=totals["items"], description=describe(totals, *prices))
        if over:
            return
