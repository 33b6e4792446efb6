"""Going on where a run was cut off: only complete checkpoints count, and only those of the same run."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from ..configuration_clara import FIELDS
from .checkpoints import (
    complete_checkpoints,
    is_complete,
    last_complete_checkpoint,
    mark_complete,
    rotate,
    trained_state,
)

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
# Fields of TrainingArguments that a checkpoint fixes, or that decide what each step computes.
SHARED_FIELDS = (
    "seed",
    "data_seed",
    "optim",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "lr_scheduler_kwargs",
    "dataloader_drop_last",
    "bf16",
    "fp16",
)
# Fields of our own configuration that may change between two commands of a run.
FREE_FIELDS = (
    "num_train_epochs",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "remove_unused_columns",
    "report_to",
    "ddp_find_unused_parameters",
    "memory_folder",
    "model_init_kwargs",
    "samples",
    "controls",
    "peak_tflops",
    "max_minutes",
    "rich_progress",
)
# Of the model's configuration: what only tells how it answers, and the base, which its name stands for.
FREE_MODEL_FIELDS = (
    "text_config",
    "retrieval_min_score",
    "reading",
    "reading_min_score",
    "reading_joint",
    "strip_answers",
)


def run_identity(args: Any, config: Any, records: Iterable[Any]) -> dict[str, Any]:
    """What must not change between the commands of one run: settings, model, rows and their order.

    Args:
        args: The training configuration.
        config: The model's; what it does not have is left out.
        records: The training rows.
    """
    own = [name for name in type(args).__annotations__ if name not in FREE_FIELDS]
    fields = {name: getattr(args, name) for name in [*own, *SHARED_FIELDS]}
    counted = FIELDS - set(FREE_MODEL_FIELDS)
    fields |= {name: getattr(config, name) for name in sorted(counted) if hasattr(config, name)}
    devices = max(1, args.world_size)
    fields["rows_per_step"] = args.per_device_train_batch_size * args.gradient_accumulation_steps * devices
    fields["rows"] = rows_digest(records)
    return json.loads(json.dumps(fields, default=str))


def rows_digest(records: Iterable[Any]) -> str:
    """SHA-256 over rows in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(repr(record).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def start_digest(model: nn.Module) -> str:
    """SHA-256 over the adapters and own parameters that a run starts from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(trained_state(model).items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_same_run(folder: str | os.PathLike, identity: Mapping[str, Any]) -> None:
    """Checks that a checkpoint is of this run.

    Raises:
        ValueError: Naming what differs, if it is of another.
    """
    file = Path(folder, RUN_FILE)
    if not file.is_file():
        raise ValueError(
            f"{folder} has no {RUN_FILE}, so it may be another run's: name another `output_dir`, or "
            "remove it."
        )
    before = json.loads(file.read_text(encoding="utf-8"))
    names = [name for name in identity if before.get(name) != identity[name]]
    if names:
        told = ", ".join(_difference(name, before.get(name), identity[name]) for name in names[:4])
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        raise ValueError(
            f"{folder} is of another run: {told}{more}. Name another `output_dir` to train anew, or give the "
            "fields and rows of that run to go on with it."
        )


def _difference(name: str, before: Any, now: Any) -> str:
    told = {
        "rows": "its training rows differ",
        "start": "it started from other weights",
        "candidates": "it searched among other passages",
    }
    return told.get(name) or f"its `{name}` is {before!r}, not {now!r}"


class ResumableTrainer(Trainer):
    """A `Trainer` whose checkpoints are complete or not there at all, and that goes on with its own run only.

    Attributes:
        run_facts: What else must be the same between the commands of a run.
    """

    run_facts: Mapping[str, Any] = {}

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Trains; `resume_from_checkpoint=True` goes on from the newest complete checkpoint, if any.

        Raises:
            ValueError: If the checkpoint is not complete or of another run, or if none is to be gone on with
                although `output_dir` holds some.
        """
        folder = self.args.output_dir
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(folder)
            logger.info("going on from %s", resume_from_checkpoint or "the start")
        elif resume_from_checkpoint and not is_complete(resume_from_checkpoint):
            raise ValueError(
                f"`resume_from_checkpoint` {resume_from_checkpoint} is no complete checkpoint: a run was cut "
                "off while writing it; pass True to go on from the newest complete one."
            )
        elif not resume_from_checkpoint and complete_checkpoints(folder) and not self.state.global_step:
            raise ValueError(
                f"`output_dir` {folder} holds checkpoints already: pass `resume_from_checkpoint=True` to go "
                "on with that run, or name another folder."
            )
        if resume_from_checkpoint:
            check_same_run(resume_from_checkpoint, self._identity())
            state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, TRAINER_STATE_NAME))
            if 0 < self.args.max_steps <= state.global_step:  # Trainer would take one step more
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return TrainOutput(state.global_step, 0.0, {})
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def _identity(self) -> dict[str, Any]:
        records = self.train_dataset.records
        return {**run_identity(self.args, self.model.config, records), **self.run_facts}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Writes a checkpoint, marks it complete, then removes the oldest above `save_total_limit`.

        Raises:
            OSError: If it cannot be written (disk full); earlier checkpoints stay, the half one is removed.
        """
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        self._remove(folder)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.save_total_limit = limit
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._write_facts(folder)
                mark_complete(folder, self.state.global_step)
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk is all three, by its writer
            self._remove(folder)
            last = last_complete_checkpoint(self.args.output_dir)
            raise OSError(
                f"{folder} could not be written ({error}): if the disk is full, make room; the same command "
                f"then goes on from {last or 'the start, no checkpoint is complete'}."
            ) from error
        if self.args.should_save:
            rotate(self.args.output_dir, limit, keep=self.state.best_model_checkpoint)
            self._checkpoint_is_complete()

    def _write_facts(self, folder: Path) -> None:
        files = {"training_args.json": self.args.to_dict(), RUN_FILE: self._identity()}
        for name, value in files.items():
            Path(folder, name).write_text(json.dumps(value, indent=2, default=str), encoding="utf-8")

    def _checkpoint_is_complete(self) -> None:
        """Called in the first process after each checkpoint."""

    def _remove(self, folder: Path) -> None:
        """Removes what a run that was cut off, or an earlier one, left in a checkpoint's place."""
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)
        self.accelerator.wait_for_everyone()
