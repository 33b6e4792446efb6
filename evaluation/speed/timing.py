"""Timing of variants that take turns in rounds of one run, growth of memory, and where it was run."""

import ctypes
import gc
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
import transformers

BUSY = 0.5  # load for each processor above which other programs were at work
Runs = Mapping[str, Callable[[int], Any]]


def measure(runs: Runs, repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Runs every variant once a round, in turns, so that a slow spell of the machine meets all of them.

    The order turns round from one round to the next. Each variant is called with the number of the round (0
    in the warm-up, which does not count), so that all work on the same input. It may return a dictionary of
    more seconds by name, such as those to the first token; anything else that it returns is dropped.

    Args:
        runs: Variants by name.
        repeats: Rounds that count.
        device: Device whose queue is waited for.

    Returns:
        The seconds of every round, by name.

    Raises:
        ValueError: If `repeats` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"`repeats` must be at least 1, got {repeats}.")
    seconds: dict[str, list[float]] = {}
    gc.collect()
    gc.freeze()  # what exists already is set aside, so that collecting between rounds is quick
    try:
        for number in range(-1, repeats):
            gc.collect()
            for name in list(runs) if number % 2 == 0 else list(reversed(runs)):
                marks = timed(name, runs[name], max(number, 0), device)
                for mark, value in marks.items() if number >= 0 else ():
                    seconds.setdefault(mark, []).append(value)
    finally:
        gc.unfreeze()
    return seconds


def timed(name: str, run: Callable[[int], Any], number: int, device: torch.device) -> dict[str, float]:
    """The seconds that one call returned, and those that it took."""
    synchronize(device)
    start = time.perf_counter()
    marks = run(number)
    synchronize(device)
    return {**(marks if isinstance(marks, dict) else {}), name: time.perf_counter() - start}


def synchronize(device: torch.device) -> None:
    """Waits for the work queued on a device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def environment(model: Any) -> dict[str, Any]:
    """What a reader needs to place the numbers: machine, versions, model, date; no names of hosts or users.

    `contended` says whether other programs took processors when the run began.
    """
    device, processors = model.device, os.cpu_count() or 1
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "processors": processors,
        "threads": torch.get_num_threads(),
        "load_average": load,
        "contended": load is not None and load > BUSY * processors,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.decoder.config._attn_implementation,
        "compression_rate": model.config.compression_rate,
        "lora_r": model.config.lora_r,
        "lora_dropout": model.config.lora_dropout,
    }


CPU = torch.device("cpu")
INTERVAL = 0.005


@dataclass
class Growth:
    """Bytes above those at the beginning, at most and at the end of a block."""

    most: int = 0
    left: int = 0


@contextmanager
def growth(device: torch.device = CPU) -> Iterator[Growth]:
    """Watches what is allocated on a GPU; else the private memory of this process, that no file backs."""
    gc.collect()
    found = Growth()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.most = torch.cuda.max_memory_allocated(device) - before
        found.left = torch.cuda.memory_allocated(device) - before
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # hands freed heap back to the system: kept, it would hide a growth
    before, over = private_bytes(), threading.Event()

    def watch() -> None:
        while not over.wait(INTERVAL):
            found.most = max(found.most, private_bytes() - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found.left = private_bytes() - before
        found.most = max(found.most, found.left)


def private_bytes() -> int:
    """Resident bytes of this process without those that it shares or that a file backs."""
    import psutil

    info = psutil.Process().memory_info()
    return info.rss - getattr(info, "shared", 0)
