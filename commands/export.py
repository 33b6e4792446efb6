"""Export a checkpoint for an engine of another kind; so far for vLLM.

`clara export vllm` merges the generator into a copy of the base: a plain causal LM for `vllm serve FOLDER
--enable-prompt-embeds`. Its sub-folder `clara` is what ClaraVllmClient makes the prompt embeddings with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .models import load_model, warn_untrained


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara export`."""
    add = parser.add_argument
    add("engine", choices=("vllm",))
    add("checkpoint", nargs="?", metavar="CHECKPOINT", help="as `--model` of the others")
    add("--output", required=True, type=Path, metavar="FOLDER", help="new or empty")


def run(arguments: argparse.Namespace) -> None:
    """Writes the folder and says how to go on."""
    from ..serving.vllm_export import CLIENT, export_vllm

    model, trained = load_model(arguments.checkpoint, "cpu")
    warn_untrained(trained)
    export_vllm(model, arguments.output)
    print(f"Serve it:  vllm serve {arguments.output} --enable-prompt-embeds")
    print(f"Ask it:    ClaraVllmClient(AutoModel.from_pretrained('{arguments.output / CLIENT}', …), URL)")
