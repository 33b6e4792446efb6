"""The paper's ablations (tables 3-4, 11-14) and what it leaves out, as arms that differ in one thing each.

Groups: `data-mix` (which signals pretraining learns from, before instruction tuning), `alignment` (with and
without the alignment loss), `frozen-compressor` (instruction tuning of the generator alone), `reasoner-start`
(a query reasoner that starts at random or as a copy of the compressor), `initialisation` (end-to-end training
after pretraining or after instruction tuning); and beyond the paper `estimator`, `temperature`, `pool-size`
and `seeds`. `joint-training` (its tables 12-13) and `k-at-test` (figure 8) are experiments of their own.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..arm_reports import add_arm_arguments, compare, plot_arms, render_arms
from ..training_arms import Arm, Phase

NEEDS_MODEL = False
MIXES = {
    "question lists": ("questions_and_answers",),
    "questions": ("answer",),
    "paraphrase": ("paraphrase",),
    "questions and lists": ("answer", "questions_and_answers"),
    "all": ("answer", "questions_and_answers", "paraphrase"),
    "all and reconstruction": ("answer", "questions_and_answers", "paraphrase", "reconstruction"),
}


def _tuned(**options: Any) -> Phase:
    return Phase("instruction_tuning", options)


def _mix(signals: tuple[str, ...]) -> Arm:
    return Arm((Phase("pretraining", {"signals": dict.fromkeys(signals, 1.0)}), _tuned()))


def _aligned(weight: float) -> Arm:
    return Arm((Phase("pretraining", {"alignment_weight": weight}), _tuned(alignment_weight=weight)))


def _end_to_end(pool_size: int | None = None, seed: int | None = None, **options: Any) -> Arm:
    return Arm((Phase("end_to_end", options, pool_size),), seed=seed)


def _fields(**fields: Any) -> Arm:
    return _end_to_end(model_fields=fields)


GROUPS: dict[str, dict[str, Arm]] = {
    "data-mix": {"none": Arm((_tuned(),)), **{name: _mix(signals) for name, signals in MIXES.items()}},
    "alignment": {f"weight {weight:g}": _aligned(weight) for weight in (0.0, 0.1, 1.0)},
    "frozen-compressor": {
        "generator and compressor": Arm((_tuned(),)),
        "generator alone": Arm((_tuned(frozen=["compressor"]),)),
    },
    "reasoner-start": {
        "compressor": _end_to_end(),
        "random": _end_to_end(starts={"query_reasoner": "fresh"}),
    },
    "initialisation": {
        "pretraining": _end_to_end(),
        "instruction tuning": Arm((_tuned(), Phase("end_to_end"))),
    },
    "estimator": {
        "straight-through": _fields(retrieval_estimator="straight_through"),
        "gumbel": _fields(retrieval_estimator="gumbel"),
    },
    "temperature": {f"{value:g}": _fields(retrieval_temperature=value) for value in (0.02, 0.005, 0.1, 0.5)},
    "pool-size": {f"{size} candidates": _end_to_end(pool_size=size) for size in (20, 10, 6)},
    "seeds": {f"seed {seed}": _end_to_end(seed=seed) for seed in (0, 1, 2)},
}
TITLES = {
    "data-mix": "Signals of pretraining, then instruction tuning",
    "alignment": "Weight of the alignment loss, pretraining and instruction tuning",
    "frozen-compressor": "Instruction tuning, by what trains",
    "reasoner-start": "Start of the query reasoner, end to end",
    "initialisation": "What end-to-end training starts after",
    "estimator": "Gradient estimator of the top-k, end to end",
    "temperature": "Temperature of the top-k, end to end",
    "pool-size": "Candidates of a training question, end to end",
    "seeds": "Training seeds, end to end",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    add_arm_arguments(parser)
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), help="only these (default: all)")


def measure(arguments: argparse.Namespace, model: None = None) -> dict[str, Any]:
    """Trains and measures the arms of every group, as JSON values; the first arm is the reference."""
    names = arguments.groups or list(GROUPS)
    return {name: compare(arguments, GROUPS[name], next(iter(GROUPS[name])), name) for name in names}


def render(result: Mapping[str, Any]) -> str:
    """The result as a page, a section for each group."""
    parts = [f"## {TITLES[name]}\n\n{render_arms(group)}" for name, group in result.items()]
    return "# Ablations\n\n" + "\n\n".join(parts) + "\n"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Retrieval, answers and loss of the arms, a row for each group."""
    plot_arms({TITLES[name]: group for name, group in result.items()}, path)
