"""What this process takes of the machine: private memory, now and at its peak during a block."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")
INTERVAL = 0.02


def private_bytes() -> int:
    """Bytes of anonymous memory of this process: what no file backs. 0 where the system does not tell."""
    if not STATUS.is_file():
        return 0
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


@dataclass
class Peak:
    """Private bytes above those at the beginning, at most and at the end of a block."""

    most: int = 0
    left: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Watches private memory while the block runs, fifty times a second."""
    found, before, over = Peak(), private_bytes(), threading.Event()

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
