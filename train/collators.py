"""The collator of each stage, made from model and arguments."""

import os
from collections.abc import Callable
from typing import Any

from ..data.collation import SIGNALS, InstructionCollator, PretrainingCollator, RecordDataset
from .arguments import ClaraTrainingConfig
from .memories import EndToEndCollator, store_candidates


def make_collator(
    model: Any, args: ClaraTrainingConfig, train: RecordDataset | None, evaluation: RecordDataset | None
) -> Callable:
    """The stage's collator; end to end it compresses every candidate first, once.

    Args:
        model: The model, at the start of the stage.
        args: The configuration.
        train: Training rows, if any.
        evaluation: Evaluation rows, if any.
    """
    shared = {"num_memory_tokens": tuple(args.num_memory_tokens), "seed": args.seed}
    if args.stage == "pretraining":
        return PretrainingCollator(
            model.processor,
            signals=args.signals or dict.fromkeys(SIGNALS, 1.0),
            max_answers=args.max_answers,
            target_max_length=args.target_max_length,
            **shared,
        )
    if args.stage == "instruction_tuning":
        return InstructionCollator(model.processor, args.documents_per_question, **shared)
    records = [record for dataset in (train, evaluation) if dataset is not None for record in dataset.records]
    memory = store_candidates(model, records, args.memory_folder or os.path.join(args.output_dir, "memory"))
    texts = dict.fromkeys(text for record in records for text in record.documents)
    places = {text: index for index, text in enumerate(texts)}
    return EndToEndCollator(model.processor, memory, places, model.config.retrieval_top_k, **shared)
