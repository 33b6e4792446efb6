"""Does the model read its memories? Answer loss with the own, a shuffled and no memory; sample answers."""

import json
import os
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState

from ..data.records import PretrainingRecord, QuestionRecord
from .arguments import ClaraTrainingConfig

Row = tuple[str, str, list[str]]


def control_rows(records: Sequence[PretrainingRecord] | Sequence[QuestionRecord], limit: int) -> list[Row]:
    """Question, answer and gold documents of the first records that have them."""
    rows: list[Row] = []
    for record in records:
        if hasattr(record, "document"):
            rows.extend(
                [(record.questions[0], record.answers[0][0], [record.document])] if record.questions else []
            )
        elif record.positives:
            rows.append((record.question, record.answers[0], [record.documents[i] for i in record.positives]))
        if len(rows) == limit:
            break
    return rows


@torch.no_grad()
def memory_controls(model: Any, rows: Sequence[Row], batch_size: int = 16, seed: int = 0) -> dict[str, float]:
    """Mean answer loss per token in nats, with each question's own gold memories, shuffled ones, and none.

    Args:
        model: A model with its processor, in eval mode.
        rows: Questions, answers and gold documents, as from `control_rows`.
        batch_size: Questions in a pass.
        seed: Seed of the derangement that gives each question another's documents.

    Returns:
        `own`, `shuffled` and `none`.
    """
    other = shifted(len(rows), seed)
    losses = {}
    for name in ("own", "shuffled", "none"):
        total = labels = 0.0
        for start in range(0, len(rows), batch_size):
            chunk = range(start, min(start + batch_size, len(rows)))
            source = {"own": list(chunk), "shuffled": [other[i] for i in chunk], "none": []}[name]
            loss, count = answer_loss(model, [rows[i] for i in chunk], [rows[i][2] for i in source])
            total, labels = total + loss, labels + count
        losses[name] = total / labels
    return losses


def shifted(count: int, seed: int) -> list[int]:
    """A seeded permutation without fixed points."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return [order[(order.index(i) + 1) % count] for i in range(count)]


def answer_loss(model: Any, rows: Sequence[Row], documents: Sequence[Sequence[str]]) -> tuple[float, int]:
    """Summed answer loss given documents (none: an empty list), and the number of answer tokens."""
    processor = model.processor
    counts = [len(texts) for texts in documents] or [0] * len(rows)
    prompts = processor.encode_prompts([r[0] for r in rows], counts, [r[1] for r in rows]).to(model.device)
    flat = [text for texts in documents for text in texts]
    memory: Tensor = model.get_input_embeddings().weight[:0].unsqueeze(0)
    if flat:
        encoded = processor.encode_documents(flat, truncation=True).to(model.device)
        memory = model.compress(**encoded)
    count = int((prompts["labels"] != -100).sum())
    return float(model(**prompts, memory=memory, num_items_in_batch=1).loss), count


class ControlCallback(TrainerCallback):
    """Logs the memory controls and a few generated answers at every evaluation.

    Args:
        records: The evaluation records.
        args: The training configuration.
    """

    limit = 64

    def __init__(
        self, records: Sequence[PretrainingRecord] | Sequence[QuestionRecord], args: ClaraTrainingConfig
    ) -> None:
        self.rows = control_rows(records, self.limit)
        self.args = args

    def on_evaluate(
        self,
        args: ClaraTrainingConfig,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Writes `memory_controls.jsonl` and `samples.jsonl` in the output folder, and the log."""
        if len(self.rows) < 2 or not state.is_world_process_zero:
            return
        training = model.training
        model.eval()
        try:
            if args.controls:
                losses = memory_controls(model, self.rows)
                found = {f"eval_loss/{name}": value for name, value in losses.items()}
                state.log_history.append({**found, "step": state.global_step})
                write_line(args.output_dir, "memory_controls.jsonl", {"step": state.global_step, **losses})
            for question, answer, documents in self.rows[: args.samples]:
                said = model.generate(question, [text[:20_000] for text in documents], max_new_tokens=32)
                sample = {
                    "step": state.global_step,
                    "question": question,
                    "answer": answer,
                    "generated": said,
                }
                write_line(args.output_dir, "samples.jsonl", sample)
        finally:
            model.train(training)


def write_line(folder: str, name: str, row: dict) -> None:
    """Appends one JSON line to a file of the run."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
