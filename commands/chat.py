"""Ask a stored corpus memory one question after the other; the model is loaded once.

Each question stands for itself: the memory is searched anew, and earlier turns are not read. An empty line
or the end of the input leaves.
"""

from __future__ import annotations

import argparse
import sys

from . import ask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara chat`."""
    ask.add_answer_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Reads questions from the terminal or a pipe, a line each, and answers them."""
    model, memory, options = ask.prepare(arguments)
    if sys.stdin.isatty():
        print(f"{len(memory)} passages. Ask a question; an empty line leaves.", file=sys.stderr)
    while question := _read():
        ask.show_answer(model, memory, question, options, arguments.json)


def _read() -> str:
    """The next question; empty at the end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
