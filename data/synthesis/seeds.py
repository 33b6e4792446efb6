"""Questions that documents are to be found for, out of any rows that hold questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..readers import Source, read_rows
from ..rows import to_pretraining, to_questions


@dataclass(frozen=True)
class SeedQuestion:
    """A question that documents are to be found for.

    Attributes:
        question: the question.
        answers: accepted (gold) answers, or none.
        positives: texts of documents known to hold the answer, or none.
        id: its name, if it has one.
    """

    question: str
    answers: tuple[str, ...] = ()
    positives: tuple[str, ...] = ()
    id: str | None = None


def read_seeds(source: Source) -> Iterator[SeedQuestion]:
    """Reads questions from rows of any kind.

    Question rows give their question, gold answers and positive documents. Pretraining rows, such as a
    finished synthesis' own, give all their questions, with the document as the positive. Rows with a
    question alone are bare questions.

    Args:
        source: see `clara.data.readers`.

    Raises:
        ValueError: if a row holds no question; the message names file and line.
    """
    for place, row in read_rows(source):
        try:
            yield from _seeds(row)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


def _seeds(row: dict) -> Iterator[SeedQuestion]:
    if row.get("data_type") == "paraphrase":
        return
    if isinstance(row.get("question"), list):
        record = to_pretraining(row)
        for number, (question, answers) in enumerate(zip(record.questions, record.answers, strict=True)):
            name = f"{record.id}-{number}" if record.id else None
            yield SeedQuestion(question, answers, (record.document,), name)
    elif "docs" in row or "qa" in row:
        for record in to_questions(row):
            positives = tuple(record.documents[i] for i in record.positives)
            yield SeedQuestion(record.question, record.answers, positives, record.id)
    else:
        yield _bare(row)


def _bare(row: dict) -> SeedQuestion:
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"`question` must be a text, got {question!r}.")
    gold = row.get("golden_answers") or row.get("answers") or row.get("answer") or []
    answers = (gold,) if isinstance(gold, str) else tuple(gold)
    return SeedQuestion(question, answers, id=None if row.get("id") is None else str(row["id"]))
