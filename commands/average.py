"""Average adapters of two checkpoints that come from one start, which keeps most of what each does well.

`clara average CHECKPOINT OTHER --weight 0.3 --output FOLDER` writes CHECKPOINT with a query reasoner that is
0.7 its own and 0.3 the other's. Averaging the compressor too makes other memories: build them again. Measure
the mean (`clara evaluate`) on questions that did not choose the weight.
"""

from __future__ import annotations

import argparse
from pathlib import Path

ADAPTERS = ("compressor", "query_reasoner", "generator")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `clara average`."""
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="folder or Hub id")
    add("other", metavar="OTHER", help="one that was trained on from it, or from one start")
    add("--weight", type=float, default=0.5, metavar="W", help="of OTHER, from 0 to 1 (default: 0.5)")
    add(
        "--adapters",
        nargs="+",
        choices=ADAPTERS,
        metavar="NAME",
        default=["query_reasoner"],
        help=f"of {', '.join(ADAPTERS)}: to average; the others stay CHECKPOINT's (default: query_reasoner)",
    )
    add("--output", required=True, type=Path, metavar="FOLDER", help="folder to make")


def run(arguments: argparse.Namespace) -> None:
    """Averages and writes."""
    from ..train.averaging import average_checkpoints

    average_checkpoints(
        arguments.checkpoint, arguments.other, arguments.weight, arguments.output, arguments.adapters
    )
    print(f"{arguments.output}: {', '.join(arguments.adapters)} moved {arguments.weight:g} of the way.")
