"""A running server on a tiny model, in this process, on a free port."""

import contextlib
import threading
import time

import httpx
import uvicorn
from clara.serving.engine import Engine
from clara.serving.server import make_server
from conftest import DOCUMENTS


def make_app(model, max_batch=4, max_queue=8, **kwargs):
    memories = {
        "sights": model.build_memory(DOCUMENTS, show_progress=False),
        "one": model.build_memory(DOCUMENTS[:1], show_progress=False),
    }
    engine = Engine(model, max_batch, max_queue, gather_seconds=0.01)
    return make_server(engine, memories, **kwargs)


@contextlib.contextmanager
def serving(app):
    """The address of a server on a free port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(60)


def ask(url, question="Who found Titan?", timeout=60, **fields):
    body = {"model": "sights", "messages": [{"role": "user", "content": question}], **fields}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=timeout)
