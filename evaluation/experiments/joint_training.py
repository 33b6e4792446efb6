"""Does joint training improve retrieval and generation? End-to-end training with parts of it held still.

All arms start from one checkpoint, see the same rows for the same number of steps, and are measured on the
same held-out questions: `start` (no training; questions are encoded by a copy of the compressor), `generator
alone` (the query reasoner is frozen, so retrieval stays as it is), `reasoner alone` (the generator is
frozen), `joint` (the paper's: both train by the answer's loss), `supervised` (the reasoner trains by
relevance labels alone, the paper's baseline) and `joint and supervised` (both losses). The compressor is
frozen in all, so documents are compressed once.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..arm_reports import add_arm_arguments, compare, plot_arms, render_arms
from ..training_arms import Arm, Phase

NEEDS_MODEL = False
REFERENCE = "generator alone"


def _end_to_end(contrastive_weight: float = 0.0, **options: Any) -> Arm:
    return Arm((Phase("end_to_end", {"contrastive_weight": contrastive_weight, **options}),))


ARMS = {
    "start": Arm(copy_compressor=True),
    REFERENCE: _end_to_end(frozen=["query_reasoner"]),
    "reasoner alone": _end_to_end(frozen=["generator"]),
    "joint": _end_to_end(),
    "supervised": _end_to_end(1.0, frozen=["generator"], generation_weight=0.0),
    "joint and supervised": _end_to_end(1.0),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    add_arm_arguments(parser)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), help="only these (default: all)")


def measure(arguments: argparse.Namespace, model: None = None) -> dict[str, Any]:
    """Trains and measures the arms, as JSON values."""
    names = [name for name in ARMS if arguments.arms is None or name in arguments.arms]
    reference = REFERENCE if REFERENCE in names else names[0]
    return compare(arguments, {name: ARMS[name] for name in names}, reference, "joint-training")


def render(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    return f"# Does joint training improve retrieval and generation?\n\n{render_arms(result)}\n"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Retrieval, answers and loss of the arms."""
    plot_arms({"end to end, by what trains": result}, path)
