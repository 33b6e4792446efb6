"""Does the model read its memories? Answer loss with the own, a shuffled and no memory; sample answers.

Letters of the shapes: B questions, N gold documents of the question that has most, H hidden width.
"""

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..data.records import PretrainingRecord, QuestionRecord
from ..data.writers import whole_file

Record = PretrainingRecord | QuestionRecord
Row = tuple[str, str, list[str]]

LIMIT = 64
DOCUMENT_CHARACTERS = 20_000


def control_rows(records: Sequence[Record], limit: int = LIMIT) -> list[Row]:
    """Question, answer and gold documents of the first records that have them."""
    rows = (row for row in map(_row, records) if row is not None)
    return [row for row, _ in zip(rows, range(limit), strict=False)]


def _row(record: Record) -> Row | None:
    if hasattr(record, "document"):
        if not record.questions:
            return None
        return record.questions[0], record.answers[0][0], [record.document]
    if not record.positives:
        return None
    return record.question, record.answers[0], [record.documents[i] for i in record.positives]


@torch.no_grad()
def memory_controls(model: Any, rows: Sequence[Row], batch_size: int = 16, seed: int = 0) -> dict[str, float]:
    """Mean answer loss per token in nats, with each question's own gold memories, shuffled ones, and none.

    Args:
        model: A model with its processor, in eval mode.
        rows: Questions, answers and gold documents, as from `control_rows`; at least two.
        batch_size: Questions in a pass.
        seed: Seed of the derangement that gives each question another's documents.

    Returns:
        `own`, `shuffled` and `none`.
    """
    other = shifted(len(rows), seed)
    sources = {
        "own": [documents for _, _, documents in rows],
        "shuffled": [rows[place][2] for place in other],
        "none": [[] for _ in rows],
    }
    found = {}
    for name, documents in sources.items():
        parts = [slice(start, start + batch_size) for start in range(0, len(rows), batch_size)]
        losses, counts = zip(*(answer_loss(model, rows[p], documents[p]) for p in parts), strict=True)
        found[name] = sum(losses) / sum(counts)
    return found


def shifted(count: int, seed: int) -> list[int]:
    """A seeded permutation without fixed points (for a count above 1)."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    following = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [following[place] for place in range(count)]


@torch.no_grad()
def answer_loss(model: Any, rows: Sequence[Row], documents: Sequence[list[str]]) -> tuple[float, int]:
    """Summed answer loss given documents (each cut to its first passage), and the number of answer tokens.

    Everything runs in one call of `forward`, which a sharded model needs.

    Args:
        model: A model with its processor.
        rows: B questions and answers.
        documents: For each question its documents; an empty list for none.
    """
    questions, answers, _ = zip(*rows, strict=True)
    width = model.config.get_text_config().hidden_size
    given = {"memory": torch.zeros(len(rows), 0, 1, width, dtype=model.dtype, device=model.device)}
    slots = [[] for _ in rows]
    if any(documents):
        given = _documents(model, documents)
        sizes = iter(model.processor.memory_counts(given["document_attention_mask"]))
        slots = [[next(sizes) for _ in texts] for texts in documents]
    batch = model.processor.encode_prompts(questions, slots, answers).to(model.device)
    output = model(**batch, **given, num_items_in_batch=1)
    return float(output.loss), int((batch["labels"] != -100).sum())


def _documents(model: Any, documents: Sequence[list[str]]) -> dict[str, torch.Tensor]:
    """Passages, and for each question the places (B, N) of its documents among them, with their mask."""
    flat = [text for texts in documents for text in texts]
    encoded = model.processor.encode_documents(flat, truncation=True)
    width = max(len(texts) for texts in documents)
    mask = torch.tensor([[place < len(texts) for place in range(width)] for texts in documents])
    indices = torch.zeros(mask.shape, dtype=torch.long)
    indices[mask] = torch.arange(len(flat))
    given = {f"document_{name}": tensor for name, tensor in encoded.items()}
    given |= {"document_indices": indices, "memory_mask": mask}
    return {name: tensor.to(model.device) for name, tensor in given.items()}


def sample_answers(model: Any, rows: Sequence[Row], max_new_tokens: int = 32) -> list[dict[str, str]]:
    """What the model answers to the rows from their gold documents, beside the gold answers."""
    documents = [[text[:DOCUMENT_CHARACTERS] for text in texts] for _, _, texts in rows]
    said = model.generate([question for question, _, _ in rows], documents, max_new_tokens=max_new_tokens)
    return [
        {"question": question, "answer": answer, "generated": text}
        for (question, answer, _), text in zip(rows, said, strict=True)
    ]


def write_rows(file: str | os.PathLike, step: int, rows: Sequence[dict]) -> None:
    """Adds the rows of a step to a JSONL file; rows of this step or later ones, from a run cut off, go.

    Args:
        file: The file, made if absent.
        step: The optimizer step.
        rows: What was measured then.
    """
    path = Path(file)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] < step]
    new = [json.dumps({"step": step, **row}, ensure_ascii=False) for row in rows]
    with whole_file(path) as partial:
        partial.write_text("".join(line + "\n" for line in [*kept, *new]), encoding="utf-8")
