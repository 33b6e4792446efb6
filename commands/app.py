"""Open a page in the browser: documents in, questions, answers with their passages, a look inside."""

from __future__ import annotations

import argparse
import os

from .models import add_model_arguments, load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara app`."""
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")


def run(arguments: argparse.Namespace) -> None:
    """Loads the model and serves the page until it is stopped."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from ..hub.space.app import Page, build, launch

    page = Page(*load_model(arguments.model, arguments.device))
    launch(build(page), server_name=arguments.host, server_port=arguments.port)
