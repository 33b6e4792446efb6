"""What a trainer writes and goes on from: adapter checkpoints, the final model, the model card."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import save_fsdp_optimizer
from torch import Tensor
from transformers.trainer import SCHEDULER_NAME

from ..configuration_clara import ClaraConfig
from .card import render_card
from .checkpoints import load_trained, save_trained, trained_state
from .resuming import ResumableTrainer
from .stages import get_stage

CARD = "README.md"


def base_is_own(config: ClaraConfig) -> bool:
    """Whether the base is to be found nowhere else, so that a checkpoint must hold it."""
    return config.base_is_changed or not config.base_model_name_or_path


class SavingMixin(ResumableTrainer):
    """Checkpoints of adapters and own parameters, complete or not there at all; the base is not in them.

    Attributes:
        origin: What the model card says of the run's origin: `command` and `data`, if they are known.
    """

    origin: dict[str, Any] = {}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            load_trained(self.model, self.state.best_model_checkpoint)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes adapters and own parameters, and what else is needed to load them over the named base."""
        if self.is_fsdp_enabled:
            self._save(output_dir, trained_state(self.model))
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            if base_is_own(self.model.config):
                save_trained(self.model, folder, state_dict)
            else:
                self.model.save_pretrained(folder, state_dict=state_dict, save_base=False)

    def _checkpoint_is_complete(self) -> None:
        self.create_model_card()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As in `Trainer`, but FSDP's copy of the whole model, base included, is left out."""
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER_NAME))

    def save_final(self, folder: str, dtype: torch.dtype | None = None) -> None:
        """Writes the trained model for use, with its card; every process must call it.

        Where the stage trained the compressor, the query reasoner is written as its copy, from which the
        end-to-end stage starts; one of before would not fit the new memories.

        Args:
            folder: Where to.
            dtype: Dtype of the adapters' files; as they are by default.
        """
        with_base = base_is_own(self.model.config)
        if with_base or self.is_deepspeed_enabled:
            state = self.accelerator.get_state_dict(self.model_wrapped)
        else:
            state = trained_state(self.model)
        if "query_reasoner" not in get_stage(self.args.stage).adapters:
            state |= {
                name.replace(".compressor.", ".query_reasoner."): tensor
                for name, tensor in state.items()
                if ".compressor." in name
            }
        if self.args.should_save:
            self.model.save_pretrained(folder, state_dict=state, save_base=with_base, adapter_dtype=dtype)
            self.create_model_card()
            shutil.copyfile(Path(self.args.output_dir, CARD), Path(folder, CARD))

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
        **_: Any,
    ) -> None:
        """Writes the model card, `README.md`, into the output folder.

        Args:
            model_name: Title; the output folder's name by default.
            dataset_name: What it was trained on; the run's files by default.
            tags: Tags beside the trainer's.
        """
        if not self.is_world_process_zero():
            return
        extra = [tags] if isinstance(tags, str) else list(tags or [])
        name = model_name or Path(self.args.output_dir).resolve().name
        origin = {**self.origin, **({"data": [dataset_name]} if dataset_name else {})}
        text = render_card(
            name, self.model.config, self.args, self.state, [*self._tag_names, *extra], **origin
        )
        Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
        Path(self.args.output_dir, CARD).write_text(text, encoding="utf-8")
