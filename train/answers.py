"""Answers of the model to held-out rows, for `compute_metrics` and `predict`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..data.records import PretrainingRecord, QuestionRecord


class Asked(NamedTuple):
    """A question with its accepted answers and the documents to answer it from."""

    question: str
    answers: list[str]
    documents: list[str]


def asked_questions(
    records: Sequence[PretrainingRecord | QuestionRecord], stage: str, shown: int
) -> list[Asked]:
    """Every question of the records, in order.

    Args:
        records: Held-out rows.
        stage: In pretraining each question of a document has that document; in instruction tuning `shown`
            documents, the positives first; end to end all candidates, of which the model chooses.
        shown: Documents of a question in instruction tuning.
    """
    if stage == "pretraining":
        return [
            Asked(question, list(answers), [record.document])
            for record in records
            for question, answers in zip(record.questions, record.answers, strict=True)
        ]
    found = []
    for record in records:
        documents = list(record.documents)
        if stage == "instruction_tuning":
            gold = [record.documents[index] for index in record.positives]
            documents = list(dict.fromkeys([*gold, *documents]))[:shown]
        found.append(Asked(record.question, list(record.answers), documents))
    return found


def answer_all(model: Any, asked: Sequence[Asked], stage: str, batch_size: int) -> list[str]:
    """The model's answers, in order.

    Args:
        model: A model with its processor.
        asked: Questions.
        stage: In instruction tuning all documents are read, otherwise the `retrieval_top_k` nearest.
        batch_size: Questions answered at once.
    """
    groups: dict[int, list[int]] = {}
    for place, one in enumerate(asked):
        groups.setdefault(len(one.documents), []).append(place)
    answers = [""] * len(asked)
    for count, places in groups.items():
        top_k = count if stage == "instruction_tuning" else None
        for start in range(0, len(places), batch_size):
            part = places[start : start + batch_size]
            questions, pools = [asked[i].question for i in part], [asked[i].documents for i in part]
            for place, text in zip(part, model.generate(questions, pools, top_k), strict=True):
                answers[place] = text
    return answers
