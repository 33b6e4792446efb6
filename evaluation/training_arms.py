"""Arms of a training comparison: the same start, rows and steps, some fields of the recipe changed.

An arm is a chain of phases, each one stage of the project's own trainer. What an arm was trained with is kept
beside its checkpoint, so that a run that was cut off goes on and another run's checkpoint is refused.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from clara.adapters_clara import copy_adapter
from clara.modeling_clara import ClaraForRetrievalGeneration

from ..train.arguments import ClaraTrainingConfig
from ..train.recipe import ScriptArguments
from ..train.run import run
from ..train.saving import CARD
from .arm_rows import PRETRAINING, QUESTIONS, write_pools, write_signals

logger = logging.getLogger(__name__)

SETTINGS = "arm.json"
SCRIPT_FIELDS = {item.name for item in fields(ScriptArguments)}
SMALL = {
    "per_device_train_batch_size": 3,
    "learning_rate": 0.0003,
    "warmup_steps": 0,
    "max_grad_norm": 1.0,
    "target_max_length": 64,
    "documents_per_question": 3,
    "logging_steps": 1,
    "save_strategy": "no",
}
QUIET = {"eval_strategy": "no", "eval_files": [], "eval_limit": None, "controls": False, "samples": 0}
NEW_MODEL = {"lora_dropout": 0.0}


@dataclass(frozen=True)
class Phase:
    """One stage of an arm.

    Attributes:
        stage: Its name.
        options: Fields of the recipe that differ; `model_fields` are joined with the recipe's.
        pool_size: Candidates of a training question, cut from its row (the positives stay); None: all.
    """

    stage: str
    options: Mapping[str, Any] = field(default_factory=dict)
    pool_size: int | None = None


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
        phases: Trained one after another; none: the start as it is.
        copy_compressor: Questions are encoded by a copy of the compressor, as end-to-end training starts.
        seed: Of the training, above the run's.
    """

    phases: tuple[Phase, ...] = ()
    copy_compressor: bool = False
    seed: int | None = None


@dataclass(frozen=True)
class Plan:
    """What all arms share.

    Attributes:
        start: Checkpoint to start from, or None for a new model over `base`.
        base: Base of a new model.
        recipes: Stage to the fields of its recipe; a stage without one takes small fields and the rows that
            ship with the repository.
        steps: Optimizer steps of every phase.
        seed: Of the training.
        folder: Where the runs are kept.
    """

    start: str | None
    base: str
    recipes: Mapping[str, Mapping[str, Any]]
    steps: int
    seed: int
    folder: Path


def trained(plan: Plan, name: str, arm: Arm) -> ClaraForRetrievalGeneration:
    """The model of an arm, trained now or before, in eval mode.

    Raises:
        ValueError: If the folder holds an arm of this name that was trained with other settings.
    """
    start, settings = plan.start, []
    for number, phase in enumerate(arm.phases):
        fields_ = phase_fields(plan, arm, phase, start)
        folder = plan.folder / name.replace(" ", "-") / f"{number}-{phase.stage}"
        settings.append(json.loads(json.dumps(fields_)))
        start = train_phase(folder, fields_, settings)
    if start is None:
        model = ClaraForRetrievalGeneration.from_base(plan.base, **NEW_MODEL)
    else:
        model = ClaraForRetrievalGeneration.from_pretrained(start)
    if arm.copy_compressor:
        copy_adapter(model.decoder, "compressor", "query_reasoner")
    return model.eval()


def phase_fields(plan: Plan, arm: Arm, phase: Phase, start: str | None) -> dict[str, Any]:
    """The fields of one training run: small ones or the recipe's, then the arm's, then the plan's."""
    given = dict(plan.recipes.get(phase.stage, SMALL))
    model_fields = {**(given.pop("model_fields", None) or {}), **phase.options.get("model_fields", {})}
    files = training_rows(plan, phase, given)
    for name in ("model", "base", "output_dir", "num_train_epochs"):
        given.pop(name, None)
    if start is None:
        origin = {"base": plan.base, "model_fields": {**NEW_MODEL, **model_fields}}
    else:
        origin = {"model": start, "model_fields": dict(phase.options.get("model_fields", {}))}
    options = {name: value for name, value in phase.options.items() if name != "model_fields"}
    seed = plan.seed if arm.seed is None else arm.seed
    rows: dict[str, Any] = {"train_files": files}
    if phase.stage == "end_to_end":
        rows["memory_folder"] = str(candidates_folder(plan, files, start, seed))
    common = {"stage": phase.stage, "max_steps": plan.steps, "seed": seed}
    return {**given, **QUIET, **rows, **options, **origin, **common}


def training_rows(plan: Plan, phase: Phase, given: dict[str, Any]) -> list[str]:
    """Files of a phase's rows: the recipe's or the shipped ones, as the phase cuts them.

    Of questions as many are drawn as the steps will see, the same ones for every arm: end-to-end training
    compresses the candidates of all its rows first.

    Args:
        plan: The plan.
        phase: The phase.
        given: Fields of its recipe; those of the rows are taken out.
    """
    files = given.pop("train_files", None)
    limit = given.pop("train_limit", None)
    if phase.stage == "pretraining":
        files = files or [str(PRETRAINING)]
        if limit is not None:
            given["train_limit"] = limit
        signals = phase.options.get("signals")
        return files if signals is None else [write_signals(files, signals, plan.folder)]
    step = given.get("per_device_train_batch_size", 8) * given.get("gradient_accumulation_steps", 1)
    count = min(plan.steps * step, limit or plan.steps * step)
    return [write_pools(files or [str(QUESTIONS)], phase.pool_size, plan.folder, count, plan.seed)]


def candidates_folder(plan: Plan, files: Sequence[str], start: str | None, seed: int) -> Path:
    """Where the candidates' memories lie: one folder for all arms of one compressor and the same rows."""
    origin = [plan.base, seed] if start is None else [os.path.abspath(start)]
    key = json.dumps([*origin, *(Path(file).name for file in files)])
    return plan.folder.parent / f"candidates-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def train_phase(folder: Path, fields_: Mapping[str, Any], settings: list[Any]) -> str:
    """Trains a phase unless that was done with the same settings; the path of its final checkpoint."""
    final, record = folder / "final", folder / SETTINGS
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) != settings:
        raise ValueError(
            f"{folder} was trained with other settings: name another folder for the runs, or remove it."
        )
    if (final / CARD).is_file() and record.is_file():
        logger.info("%s is there already", final)
        return str(final)
    folder.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    script = ScriptArguments(**{k: v for k, v in fields_.items() if k in SCRIPT_FIELDS})
    own = {k: v for k, v in fields_.items() if k not in SCRIPT_FIELDS}
    run(script, ClaraTrainingConfig(output_dir=str(folder), **own))
    return str(final)


def describe(arms: Mapping[str, Arm]) -> dict[str, Any]:
    """The arms as JSON values."""
    return {name: asdict(arm) for name, arm in arms.items()}
