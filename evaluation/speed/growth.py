"""How far the memory of this process grows while a block runs."""

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

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
    give_back()
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


def give_back() -> None:
    """Hands freed heap back to the system, where the C library can: kept, it would hide a growth."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
