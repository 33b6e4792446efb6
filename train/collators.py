"""The collator of each stage, made from model and arguments."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.integrations import is_deepspeed_zero3_enabled

from ..data.collation import SIGNALS, InstructionCollator, Item, PretrainingCollator
from ..data.records import QuestionRecord
from .arguments import ClaraTrainingConfig
from .memories import EndToEndCollator, store_candidates


@dataclass
class RowCollator:
    """A collator whose batches and errors name their rows.

    Attributes:
        collator: The stage's collator.
    """

    collator: Callable[[Sequence[Item]], dict[str, Any]]

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        """The collator's batch with `rows` (B,), the places of its rows in the dataset."""
        rows = [item.index for item in items]
        try:
            return {"rows": torch.tensor(rows), **self.collator(items)}
        except ValueError as error:
            raise ValueError(f"The batch of the rows {rows}: {error}") from error


def make_collator(model: Any, args: ClaraTrainingConfig, records: Sequence[Any]) -> Callable:
    """The stage's collator; end to end it compresses every candidate first, once.

    Args:
        model: The model, at the start of the stage.
        args: The configuration.
        records: Every row of training and evaluation.
    """
    shared = {"num_memory_tokens": tuple(args.num_memory_tokens), "seed": args.seed}
    if args.stage == "pretraining":
        return PretrainingCollator(
            model.processor,
            signals=args.signals or dict.fromkeys(SIGNALS, 1.0),
            max_answers=args.max_answers,
            target_max_length=args.target_max_length,
            match_questions=bool(args.contrastive_weight),
            **shared,
        )
    if args.stage == "instruction_tuning":
        return InstructionCollator(model.processor, args.documents_per_question, **shared)
    return _end_to_end(model, args, records, **shared)


def _end_to_end(
    model: Any, args: ClaraTrainingConfig, records: Sequence[QuestionRecord], **shared: Any
) -> EndToEndCollator:
    """One process compresses, on its device; the others open what it stored."""
    folder = args.memory_folder or os.path.join(args.output_dir, "memory")
    if getattr(model, "hf_device_map", None) is None and not is_deepspeed_zero3_enabled():
        model.to(args.device)
    with args.main_process_first(local=False, desc="compressing the candidates"):
        memory, places = store_candidates(model, records, folder, batch_size=args.per_device_eval_batch_size)
    return EndToEndCollator(model.processor, memory, places, model.config.retrieval_top_k, **shared)
