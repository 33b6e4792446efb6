"""Training rows of the arms: the shipped tiny rows with full pools, and pools of other sizes."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clara.data.readers import read_pretraining, read_questions
from clara.data.records import QuestionRecord
from clara.data.rows import pretraining_rows, question_row

from ..train.sampling import draw

RECIPES = Path(__file__).resolve().parents[1] / "train" / "recipes"
PRETRAINING = RECIPES / "tiny_pretraining.jsonl"
QUESTIONS = RECIPES / "tiny_questions.jsonl"
TINY_POOL = 8


def write_pools(
    files: Sequence[str], pool_size: int | None, folder: Path, count: int | None = None, seed: int = 0
) -> str:
    """Writes question rows whose pools have at most `pool_size` candidates, and returns the file's path.

    Args:
        files: Question rows; the shipped tiny questions get the questions and documents of the shipped
            pretraining rows beside their own.
        pool_size: Candidates kept: the positives, then the others in the row's order; None: all, or 8 of the
            shipped rows.
        folder: Where the file is written, under a name that tells its content.
        count: Rows at most, drawn from all files alike; None: all.
        seed: Of that draw.

    Raises:
        ValueError: If a question has more positives than `pool_size`.
    """
    if list(files) == [str(QUESTIONS)]:
        records = tiny_questions(pool_size or TINY_POOL)
    else:
        records = [cut_pool(record, pool_size) for record in read_questions(list(files))]
    return _write([question_row(record) for record in draw(records, count, seed)], folder)


def write_signals(files: Sequence[str], signals: Iterable[str], folder: Path) -> str:
    """Writes the pretraining rows that have some of the signals, and of those these signals alone.

    A document without any of them would be reconstructed instead, which would blur a comparison of signals.

    Args:
        files: Pretraining rows.
        signals: Names of `data.collation.SIGNALS`; every document can be reconstructed.
        folder: Where the file is written.

    Returns:
        The file's path.

    Raises:
        ValueError: If no row has one of the signals.
    """
    wanted = set(signals)
    asks, retells = bool(wanted & {"answer", "questions_and_answers"}), "paraphrase" in wanted
    rows = []
    for record in read_pretraining(list(files)):
        kept = replace(
            record,
            questions=record.questions if asks else (),
            answers=record.answers if asks else (),
            paraphrases=record.paraphrases if retells else (),
        )
        if kept.num_signals or "reconstruction" in wanted:
            rows += pretraining_rows(kept)
    if not rows:
        raise ValueError(f"no row of {list(files)} has one of the signals {sorted(wanted)}.")
    return _write(rows, folder)


def _write(rows: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """Writes rows under a name that tells their content."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path = folder / f"rows-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def tiny_questions(pool_size: int = TINY_POOL) -> list[QuestionRecord]:
    """The questions of the shipped tiny rows, each over its document and the ones that follow it."""
    pairs = [
        (question, answers, record.document)
        for record in read_pretraining(PRETRAINING)
        for question, answers in zip(record.questions, record.answers, strict=True)
    ]
    asked = [(r.question, r.answers, r.documents[r.positives[0]]) for r in read_questions(QUESTIONS)]
    documents = list(dict.fromkeys(document for _, _, document in [*pairs, *asked]))
    records = []
    for question, answers, document in [*pairs, *asked]:
        first = documents.index(document)
        places = sorted((first + step) % len(documents) for step in range(min(pool_size, len(documents))))
        pool = tuple(documents[place] for place in places)
        records.append(QuestionRecord(question, tuple(answers), pool, (places.index(first),)))
    return records


def cut_pool(record: QuestionRecord, pool_size: int | None) -> QuestionRecord:
    """The record with its positives and the first others, in the row's order.

    Raises:
        ValueError: If it has more positives than `pool_size`.
    """
    if pool_size is None or len(record.documents) <= pool_size:
        return record
    if len(record.positives) > pool_size:
        raise ValueError(
            f"{record.question!r} has {len(record.positives)} positives, more than `pool_size` = {pool_size}."
        )
    others = [place for place in range(len(record.documents)) if place not in record.positives]
    kept = sorted([*record.positives, *others[: pool_size - len(record.positives)]])
    positives = tuple(kept.index(place) for place in record.positives)
    return replace(record, documents=tuple(record.documents[p] for p in kept), positives=positives)
