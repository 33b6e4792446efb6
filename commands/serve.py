"""Serve stored memories over HTTP, OpenAI-compatible: chat completions, embeddings, models, health, metrics.

Questions that come together are answered together (continuous batching). With the environment variable
CLARA_API_KEY every request must name that key; without it, leave the host as it is. SIGTERM lets what was
taken be answered, then ends.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
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
KEY = "CLARA_API_KEY"
HERE = ("127.0.0.1", "localhost", "[::1]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara serve`."""
    add = parser.add_argument
    add(
        "--memory",
        action="append",
        required=True,
        metavar="[NAME=]FOLDER",
        help="corpus memory, folder or Hub dataset repository; may be repeated (default name: the folder's)",
    )
    add_model_arguments(parser)
    add("--merge-adapters", action="store_true", help="faster answers for two more copies of the weights")
    add(
        "--rewrite",
        action="store_true",
        help="let the base rewrite a question that follows earlier turns, so that it stands alone",
    )
    add("--model-name", default="clara", help="the model's own name")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8000, help="port to listen on; 0 takes a free one")
    add(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name under which it may be addressed; may be repeated (default: this machine's own names where "
        "it listens to this machine alone, else any)",
    )
    add(
        "--cors-origin",
        action="append",
        default=[],
        metavar="URL",
        help="web page whose scripts may ask; may be repeated (default: none)",
    )
    add("--max-body-bytes", type=int, default=1 << 20, help="largest request (default: 1 MiB)")
    add("--max-batch", type=int, default=16, help="answers at once")
    add("--max-queue", type=int, default=64, help="may wait")
    add("--max-new-tokens", type=int, default=512, help="longest answer")
    add("--drain-seconds", type=int, default=60, help="to finish at SIGTERM")


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
        engine,
        memories,
        arguments.model_name,
        arguments.max_new_tokens,
        arguments.max_body_bytes,
        api_key=os.environ.get(KEY),
        hosts=arguments.allowed_host or (HERE if arguments.host in HERE else ()),
        origins=arguments.cors_origin,
        rewrite=arguments.rewrite,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn has drained by then and hands it on
    with listening(arguments.host, arguments.port) as place:
        show_banner(arguments, place.getsockname()[1], memories)
        config = uvicorn.Config(
            app, timeout_graceful_shutdown=arguments.drain_seconds, log_level="warning", access_log=False
        )
        uvicorn.Server(config).run(sockets=[place])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; an OSError that says the way out if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another `--port`, or 0 for "
            "a free one."
        ) from error


def show_banner(arguments: argparse.Namespace, port: int, memories: dict[str, Any]) -> None:
    """Says on stdout where the server is, what it answers from, and who may ask."""
    name = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    width = max(map(len, memories))
    lines = [f"CLaRa serves at http://{name}:{port}/v1  (OpenAI-compatible; Ctrl-C ends it)"]
    lines.append(f"  model   {arguments.model or 'default'}, named {arguments.model_name!r} in requests")
    lines += [f"  memory  {key:<{width}}  {len(memory):,} passages" for key, memory in memories.items()]
    lines.append(f"  key     {f'needed, from {KEY}' if os.environ.get(KEY) else f'none ({KEY} is not set)'}")
    print("\n".join(lines), flush=True)


def bound_kernel_caches() -> None:
    """Lets torch keep fewer compiled kernels; it reads this when it is loaded. What is set already, stays."""
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, str(KERNELS))


def named_folders(given: list[str]) -> dict[str, str]:
    """Memories by name out of `NAME=FOLDER` and `FOLDER`; a ValueError if a name is empty or occurs twice."""
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
