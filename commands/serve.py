"""Serve stored memories over HTTP, OpenAI-compatible: /v1/chat/completions, /v1/models, /health, /metrics.

Questions that come together are answered together (continuous batching). There is no authentication: leave
the host as it is, or put a proxy with one before it. SIGTERM lets what was taken be answered, then ends.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from .models import add_model_arguments, load_model, warn_untrained
from .search_options import check_memory, open_memory

# On a CPU torch compiles its kernels for each shape that it meets, and every number of prompts and of their
# tokens is a new one. oneDNN and torch's layer above it both keep the last 1,024 kernels, in bfloat16 of some
# 0.6 MB: a server would grow by that for minutes. A step uses ten or so; one more takes half a millisecond.
KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
KERNELS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara serve`."""
    parser.add_argument(
        "--memory",
        action="append",
        required=True,
        metavar="[NAME=]FOLDER",
        help="corpus memory, folder or Hub dataset repository; may be repeated (default name: the folder's)",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--merge-adapters",
        action="store_true",
        help="faster answers for two more copies of the base's weights (`model.merge_adapters`)",
    )
    parser.add_argument("--model-name", default="clara", help="the model's own name (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    parser.add_argument(
        "--max-batch", type=int, default=16, metavar="N", help="answers at once (default: 16)"
    )
    parser.add_argument("--max-queue", type=int, default=64, metavar="N", help="may wait (default: 64)")
    parser.add_argument(
        "--max-new-tokens", type=int, default=512, metavar="N", help="longest answer (default: 512)"
    )
    parser.add_argument("--max-body-bytes", type=int, default=1 << 20, metavar="N", help="(default: 1 MiB)")
    parser.add_argument(
        "--drain-seconds", type=int, default=60, metavar="N", help="to finish at SIGTERM (default: 60)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Serves until it is told to stop."""
    bound_kernel_caches()
    import uvicorn

    from ..serving.engine import Engine
    from ..serving.server import make_server

    folders = named_folders(arguments.memory)
    for folder in folders.values():
        check_memory(folder)
    model, trained = load_model(arguments.model, arguments.device)
    warn_untrained(trained)
    if arguments.merge_adapters:
        model.merge_adapters()
    memories = {name: open_memory(model, folder) for name, folder in folders.items()}
    engine = Engine(model, arguments.max_batch, arguments.max_queue)
    app = make_server(
        engine, memories, arguments.model_name, arguments.max_new_tokens, arguments.max_body_bytes
    )
    signal.signal(signal.SIGTERM, leave)
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        timeout_graceful_shutdown=arguments.drain_seconds,
        log_level="warning" if not sys.stderr.isatty() else "info",
    )


def bound_kernel_caches() -> None:
    """Lets torch keep fewer compiled kernels; it reads this when it is loaded. What is set already, stays."""
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, str(KERNELS))


def leave(*_: Any) -> None:
    """Ends the process; uvicorn has drained by then and hands the signal on."""
    sys.exit(0)


def named_folders(given: list[str]) -> dict[str, str]:
    """Memories by name out of `NAME=FOLDER` and `FOLDER`.

    Raises:
        ValueError: If a name is empty or occurs twice.
    """
    folders: dict[str, str] = {}
    for text in given:
        name, mark, folder = text.partition("=")
        if not mark:
            name, folder = Path(text).name, text
        if not name or not folder:
            raise ValueError(f"`--memory` must be FOLDER or NAME=FOLDER, got {text!r}.")
        if name in folders:
            raise ValueError(
                f"`--memory` has the name {name!r} twice: give one of them another, NAME=FOLDER."
            )
        folders[name] = folder
    return folders
