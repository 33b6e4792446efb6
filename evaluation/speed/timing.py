"""Timing of variants in one run: warm-up, rounds in which they take turns, medians, ratios round by round."""

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

Run = Callable[[int], Mapping[str, float] | None]
WALL = "total"


def measure(
    runs: Mapping[str, Run], repeats: int, device: torch.device, warmup: int = 1
) -> dict[str, dict[str, list[float]]]:
    """Runs every variant once a round, in turns, so that a slow spell of the machine meets all of them.

    The order turns round from one round to the next. Each variant is called with the number of the round (0
    in the warm-up), so that all work on the same input; it may return further marks in seconds, such as the
    time to the first token.

    Args:
        runs: Variants by name.
        repeats: Rounds that count.
        device: Device whose queue is waited for.
        warmup: Rounds before, which do not count.

    Returns:
        For each variant the seconds of every round, by mark; `WALL` is the whole call.

    Raises:
        ValueError: If `repeats` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"`repeats` must be at least 1, got {repeats}.")
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
    with tidy():
        for number in range(-warmup, repeats):
            gc.collect()
            for name in list(runs) if number % 2 == 0 else list(reversed(runs)):
                marks = timed(runs[name], max(number, 0), device)
                for mark, value in marks.items() if number >= 0 else ():
                    seconds[name].setdefault(mark, []).append(value)
    return seconds


@contextmanager
def tidy() -> Iterator[None]:
    """Sets aside what exists already, so that collecting garbage between rounds is quick."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def timed(run: Run, number: int, device: torch.device) -> dict[str, float]:
    """The marks of one call, its wall time among them."""
    synchronize(device)
    start = time.perf_counter()
    marks = run(number)
    synchronize(device)
    return {**(marks or {}), WALL: time.perf_counter() - start}


def nothing(_: Any) -> None:
    """Drops a result, so that a call can be a variant."""


def synchronize(device: torch.device) -> None:
    """Waits for the work queued on a device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@dataclass(frozen=True)
class Ratio:
    """How many times as long one variant takes as another, for the same work.

    Attributes:
        name: What is compared.
        median: Of the rounds.
        minimum: Of the rounds.
        maximum: Of the rounds.
        needed: What has to be reached, if anything.
    """

    name: str
    median: float
    minimum: float
    maximum: float
    needed: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the median is at least what is needed; None if nothing is."""
        return None if self.needed is None else self.median >= self.needed


def ratio(
    name: str, slow: Sequence[float], fast: Sequence[float], needed: float | None = None, work: float = 1.0
) -> Ratio:
    """Compares two variants round by round.

    Args:
        name: What is compared.
        slow: Seconds of each round.
        fast: Seconds of each round, of the other variant.
        needed: What has to be reached.
        work: How many times the fast variant's work the slow one does.
    """
    values = [one / other / work for one, other in zip(slow, fast, strict=True)]
    return Ratio(name, statistics.median(values), min(values), max(values), needed)


def environment(model: Any) -> dict[str, Any]:
    """What a reader needs to place the numbers: machine, versions, model, date; no names of hosts or users.

    `load_average` far above the processors that a run uses means that other programs took part of them.
    """
    device = model.device
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor_name(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.decoder.config._attn_implementation,
        "compression_rate": model.config.compression_rate,
        "lora_r": model.config.lora_r,
        "lora_dropout": model.config.lora_dropout,
    }


def processor_name() -> str:
    """The CPU's name as the system tells it."""
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
