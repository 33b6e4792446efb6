"""ClaraTrainer: transformers' Trainer with CLaRa's losses, bucketed rows, adapter checkpoints and metrics."""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback

from ..data.collation import RecordDataset
from ..data.records import PretrainingRecord, QuestionRecord
from .arguments import ClaraTrainingConfig
from .checkpoints import last_complete_checkpoint, load_trained, mark_complete, rotate
from .collators import make_collator
from .controls import ControlCallback
from .curves import CurveCallback
from .losses import contrastive_loss
from .metrics import RunningMeans, recall
from .optimizer import MasterAdamW
from .sampling import EpochSampler
from .stages import adapter_gradient_norms, prepare_stage
from .throughput import StepFlops, device_peak_tflops

logger = logging.getLogger(__name__)

Records = Sequence[PretrainingRecord] | Sequence[QuestionRecord]


class ClaraTrainer(Trainer):
    """Trains one stage of a CLaRa model.

    Args:
        model: A model of `ClaraForRetrievalGeneration` with its processor. It is put at the start of the
            stage.
        args: The configuration; its `stage` decides what trains.
        train_dataset: Records: `PretrainingRecord`s in pretraining, `QuestionRecord`s in the other stages.
        eval_dataset: Records of the same kind.
        data_collator: Default: the stage's.
        callbacks: As in `Trainer`; curves and the memory controls are added.
        **kwargs: As in `Trainer` (optimizers, …).

    Raises:
        ValueError: If the model has no processor, lacks an adapter of the stage, or there are no records.
        FloatingPointError: While training, if a loss is not finite; the message names the batch's rows.
    """

    _tag_names = ("clara", "rag", "trl")

    def __init__(
        self,
        model: Any,
        args: ClaraTrainingConfig,
        train_dataset: Records | None = None,
        eval_dataset: Records | None = None,
        data_collator: Callable | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        if model.processor is None:
            raise ValueError("`model` has no processor: load it with from_pretrained or from_base.")
        prepare_stage(model, args.stage, args.starts)
        train, evaluation = (
            None if rows is None else RecordDataset(rows) for rows in (train_dataset, eval_dataset)
        )
        collator = data_collator or make_collator(model, args, train, evaluation)
        own = [CurveCallback()]
        if evaluation is not None and (args.controls or args.samples):
            own.append(ControlCallback(evaluation.records, args))
        self._means = {True: RunningMeans(), False: RunningMeans()}
        self._flops = StepFlops(model)
        self._clock, self._work, self._tokens = time.perf_counter(), 0.0, 0
        self._rows: list[int] = []
        super().__init__(
            model=model,
            args=args,
            data_collator=self._named(collator),
            train_dataset=train,
            eval_dataset=evaluation,
            processing_class=None,
            callbacks=[*own, *(callbacks or [])],
            **kwargs,
        )

    def _named(self, collator: Callable) -> Callable:
        """The collator, with the rows of the batch noted for the message of a broken loss."""

        def collate(items: Sequence[Any]) -> dict[str, Any]:
            return {**collator(items), "rows": torch.tensor([item.index for item in items])}

        return collate

    def _get_train_sampler(self, train_dataset: RecordDataset | None = None) -> Sampler:
        args = self.args
        step = args.train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size)
        return EpochSampler(train_dataset or self.train_dataset, step, args.bucket_by_length, args.seed)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW; with float32 masters when a trained parameter has a lower precision."""
        low = any(
            p.requires_grad and p.dtype in (torch.bfloat16, torch.float16) for p in self.model.parameters()
        )
        if low and self.optimizer is None and self.optimizer_cls_and_kwargs is None:
            args = self.args
            options = {
                "lr": args.learning_rate,
                "betas": (args.adam_beta1, args.adam_beta2),
                "eps": args.adam_epsilon,
            }
            self.optimizer_cls_and_kwargs = (MasterAdamW, options)
        return super().create_optimizer(model)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The stage's weighted loss; see `ClaraTrainingConfig`.

        The answer's loss is divided by the labels of the whole optimizer step (`num_items_in_batch`); losses
        that are means over documents are divided by the accumulation steps, so 1 x 8 equals 8 x 1.
        """
        rows, positives = inputs.pop("rows"), inputs.pop("positives", None)
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        share = 1.0 if num_items_in_batch is None else 1.0 / self.current_gradient_accumulation_steps
        loss = self.args.generation_weight * outputs.loss
        if outputs.alignment_loss is not None:
            loss = loss + self.args.alignment_weight * outputs.alignment_loss * share
        if self.args.contrastive_weight:
            temperature = self.model.config.retrieval_temperature
            extra = contrastive_loss(outputs.scores, positives, temperature, inputs.get("memory_mask"))
            loss = loss + self.args.contrastive_weight * extra * share
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss.item()} at step {self.state.global_step}, rows {rows.tolist()}: "
                "look at these rows, or lower the learning rate. The last checkpoint is good."
            )
        self._note(inputs, outputs, positives, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _note(self, inputs: dict, outputs: Any, positives: Tensor | None, num_items: Any) -> None:
        training = self.model.training
        means = self._means[training]
        if training:
            self._work += self._flops(inputs)
            self._tokens += self._flops.tokens(inputs)
        if outputs.alignment_loss is not None:
            means.add({"alignment_loss": float(outputs.alignment_loss.detach())})
        if outputs.scores is not None and positives is not None:
            values, count = recall(outputs.scores, positives, inputs.get("memory_mask"))
            means.add(values, count)
            means.add({"pool_size": float(inputs["memory_mask"].sum(-1).float().mean())}, len(positives))

    def _clip_grad_norm(self, model: Any) -> Any:
        norms = adapter_gradient_norms(self.model)
        self._means[True].add({f"grad_norm/{name}": norm for name, norm in norms.items()})
        return super()._clip_grad_norm(model)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the stage's metrics, tokens per second and model FLOP utilisation."""
        evaluating = any(name.startswith("eval_") for name in logs)
        prefix = "eval_" if evaluating else ""
        logs.update({prefix + name: value for name, value in self._means[not evaluating].pop().items()})
        if not evaluating and "loss" in logs:
            logs.update(self._speed())
        super().log(logs, start_time)

    def _speed(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._clock
        speed = {"tokens_per_second": self._tokens / seconds, "tflops": self._work / seconds / 1e12}
        peak = self.args.peak_tflops or device_peak_tflops(self.args.device)
        if peak:
            speed["mfu"] = speed["tflops"] / peak
        self._clock, self._work, self._tokens = time.perf_counter(), 0.0, 0
        return speed

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Writes adapters, own parameters, config and processor; the frozen base is named, not written."""
        folder = output_dir or self.args.output_dir
        named = bool(self.model.config.base_model_name_or_path)
        if self.args.should_save:
            self.model.save_pretrained(folder, state_dict=state_dict, save_base=not named)
            with open(os.path.join(folder, "training_args.json"), "w", encoding="utf-8") as file:
                json.dump(self.args.to_dict(), file, indent=2, default=str)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            folder = os.path.join(self.args.output_dir, f"checkpoint-{self.state.global_step}")
            mark_complete(folder, self.state.global_step)
            rotate(self.args.output_dir, limit, keep=self.state.best_model_checkpoint)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Trains; `resume_from_checkpoint=True` goes on from the newest complete checkpoint, if any."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
            logger.info("resuming from %s", resume_from_checkpoint or "the start")
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        load_trained(self.model, self.state.best_model_checkpoint)
