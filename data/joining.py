"""Rows of one document joined into one record, so that it is compressed once for all its signals."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from .records import PretrainingRecord

JOINS = ("all", "adjacent", "none")


def join_documents(records: Iterable[PretrainingRecord], join: str = "all") -> Iterator[PretrainingRecord]:
    """Joins the records of one document; see `read_pretraining`. A ValueError if `join` is unknown."""
    if join not in JOINS:
        raise ValueError(f"`join` must be one of {', '.join(JOINS)}, got {join!r}.")
    if join == "none":
        return iter(records)
    if join == "adjacent":
        return (_joined(list(group)) for _, group in groupby(records, lambda record: record.document))
    groups: dict[str, list[PretrainingRecord]] = {}
    for record in records:
        groups.setdefault(record.document, []).append(record)
    return map(_joined, groups.values())


def _joined(group: list[PretrainingRecord]) -> PretrainingRecord:
    """Joins the records of one document: answers by question, paraphrases in order, nothing twice."""
    if len(group) == 1:
        return group[0]
    answers: dict[str, dict[str, None]] = {}
    for record in group:
        for question, accepted in zip(record.questions, record.answers, strict=True):
            answers.setdefault(question, {}).update(dict.fromkeys(accepted))
    paraphrases = dict.fromkeys(text for record in group for text in record.paraphrases)
    found = {question for record in group for question in record.findable_questions}
    flags = tuple(question in found for question in answers)
    return PretrainingRecord(
        document=group[0].document,
        questions=tuple(answers),
        answers=tuple(tuple(accepted) for accepted in answers.values()),
        paraphrases=tuple(paraphrases),
        findable=() if all(flags) else flags,
        id=next((record.id for record in group if record.id is not None), None),
    )
