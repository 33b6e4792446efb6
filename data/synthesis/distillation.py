"""Instruction-tuning data by sequence-level distillation: a teacher answers from retrieved documents."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import QuestionRecord
from ..writers import write_jsonl, write_parquet
from . import prompts
from .card import card
from .manifest import read_manifest
from .pools import retrieved
from .report import total_progress
from .retrievers import Retriever
from .seeds import SeedQuestion
from .structured import BadReplyError, ask
from .teacher import Teacher
from .texts import contains_run, normalized, words
from .worker import Item

ANSWER_TOKENS = 256


def distillation_items(seeds: Iterable[SeedQuestion], retriever: Retriever, k: int = 5) -> Iterator[Item]:
    """Yields one item a question, with its `k` best documents (the paper: 5)."""
    for number, (seed, documents) in enumerate(retrieved(iter(seeds), retriever, k)):
        extra = {"documents": documents, "answers": seed.answers, "positives": seed.positives}
        yield Item(
            seed.id or str(number), seed.question, {name: list(value) for name, value in extra.items()}
        )


@dataclass(frozen=True)
class DistillationJob:
    """Lets the teacher answer one question from its documents.

    The answer is kept where there is no gold answer, or where it agrees with one: one holds the other, word
        by word.
    """

    async def run(self, item: Item, teacher: Teacher) -> tuple[dict[str, Any], bool]:
        """Returns the question with the teacher's answer, or with the reason for leaving it out."""
        row = {"id": item.id, "question": item.text, **item.extra, "generated": "", "reason": ""}
        try:
            prompt = prompts.distil_prompt(item.extra["documents"], item.text)
            reply = await ask(teacher, prompt, prompts.Answer, ANSWER_TOKENS)
        except BadReplyError as error:
            return {**row, "reason": error.reason}, False
        row["generated"] = reply.answer.strip()
        if not reply.answerable or not row["generated"]:
            return {**row, "reason": "unanswerable"}, False
        if item.extra["answers"] and not agrees(row["generated"], item.extra["answers"]):
            return {**row, "reason": "disagrees_with_gold"}, False
        return row, True


def agrees(answer: str, gold: Iterable[str]) -> bool:
    """Whether an answer holds a gold answer as a run of words, or the other way round."""
    mine = words(answer)
    others = (found for text in gold if (found := words(text)))
    return bool(mine) and any(contains_run(other, mine) or contains_run(mine, other) for other in others)


def finish_distillation(folder: str | Path, form: str = "jsonl") -> Counter:
    """Writes the kept rows to `data/`, with a report of the reasons for leaving others out, and a card.

    Args:
        folder: the output folder.
        form: "jsonl" or "parquet".

    Returns:
        Questions by reason; "accepted" for the kept ones.

    Raises:
        ValueError: if `folder` holds no raw rows, or no question was kept and `form` is "parquet".
    """
    folder, counts = Path(folder), Counter()
    files = sorted((folder / "raw").glob("*.jsonl"))
    if not files:
        raise ValueError(f"`folder` {folder} holds no raw rows: run the generation first.")
    path = folder / "data" / f"instruction_tuning-00000.{form}"
    {"jsonl": write_jsonl, "parquet": write_parquet}[form](_kept(files, counts), path)
    lines = [
        "| outcome | questions |",
        "|---|---|",
        *(f"| {reason} | {n} |" for reason, n in counts.most_common()),
    ]
    shown = "\n".join(lines)
    said = f"{counts['accepted']} of {counts.total()} questions were kept"
    (folder / "report.md").write_text(f"# Distillation report\n\n{said}.\n\n{shown}\n", encoding="utf-8")
    report = {"totals": total_progress(folder), "questions": counts}
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    text = card("instruction_tuning", read_manifest(folder), form, said, shown)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return counts


def _kept(files: Iterable[Path], counts: Counter) -> Iterator[QuestionRecord]:
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                counts[row["reason"] or "accepted"] += 1
                if not row["reason"]:
                    yield _record(row)


def _record(row: dict[str, Any]) -> QuestionRecord:
    """Returns a kept row as a record; the teacher's answer stands in where there is no gold one."""
    known = {normalized(text) for text in row["positives"]}
    positives = tuple(i for i, text in enumerate(row["documents"]) if normalized(text) in known)
    gold = tuple(row["answers"]) or (row["generated"],)
    return QuestionRecord(
        row["question"], gold, tuple(row["documents"]), positives, row["generated"], row["id"]
    )
