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


def make_collator(
    model: Any,
    args: ClaraTrainingConfig,
    records: Sequence[Any],
    corpus: Sequence[str] = (),
    stored: bool = True,
) -> Callable:
    """The stage's collator; end to end it compresses every candidate first, once.

    Args:
        model: The model, at the start of the stage.
        args: The configuration.
        records: Every row of training and evaluation.
        corpus: End to end: passages beside the rows' candidates.
        stored: End to end: keep the candidates' memories in the run's folder; else in memory alone.
    """
    shared = {"rate_factors": rate_factors(args, model.config), "seed": args.seed}
    if args.stage == "pretraining":
        return PretrainingCollator(
            model.processor,
            signals=args.signals or dict.fromkeys(SIGNALS, 1.0),
            max_answers=args.max_answers,
            target_max_length=args.target_max_length,
            match_questions=args.matched_questions if args.contrastive_weight else 0,
            pack_questions=args.pack_questions,
            **shared,
        )
    if args.stage == "instruction_tuning":
        return InstructionCollator(model.processor, args.documents_per_question, **shared)
    folder = (args.memory_folder or os.path.join(args.output_dir, "memory")) if stored else None
    return _end_to_end(model, args, records, corpus, folder, pool_size=args.pool_size, **shared)


def _end_to_end(
    model: Any,
    args: ClaraTrainingConfig,
    records: Sequence[QuestionRecord],
    corpus: Sequence[str],
    folder: str | None,
    **shared: Any,
) -> EndToEndCollator:
    """One process compresses, on its device; the others open what it stored."""
    if getattr(model, "hf_device_map", None) is None and not is_deepspeed_zero3_enabled():
        model.to(args.device)
    k = model.config.retrieval_top_k
    with args.main_process_first(local=False, desc="compressing the candidates"):
        candidates = store_candidates(
            model, records, folder, args.per_device_eval_batch_size, corpus, 1 if args.pool_size else k
        )
    return EndToEndCollator(model.processor, candidates, k, **shared)


def rate_factors(args: ClaraTrainingConfig, config: Any) -> tuple[int, ...]:
    """The rates to train as multiples of the model's.

    Raises:
        ValueError: If one is no multiple.
    """
    odd = [rate for rate in args.compression_rates if rate % config.compression_rate]
    if odd:
        raise ValueError(
            f"`compression_rates` must be multiples of the model's {config.compression_rate}, got {odd}."
        )
    return tuple(rate // config.compression_rate for rate in args.compression_rates) or (1,)
