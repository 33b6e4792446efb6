"""The paper's released row schema, read into records and written back.

Three shapes of rows exist in the released data (apple/CLaRa_multi_stage):

- pretraining: `data_type` ("qa" or "paraphrase"), `question` (list), `answers` (list), `docs` (one document);
  where a question has several accepted answers we add `accepted_answers`, a list of lists;
- instruction tuning: `question`, `docs`, `gold_answer` (the reference), `answer` (the teacher's answer);
- end to end and evaluation: `question`, `docs`, `answer` or `golden_answers`, `pos_index`.

The library's own names, `documents` and `positives`, are read in place of `docs` and `pos_index`.
"""

from collections.abc import Mapping
from typing import Any

from .records import CorpusRecord, PretrainingRecord, QuestionRecord

GOLD_FIELDS = ("golden_answers", "gold_answer")


def to_pretraining(row: Mapping[str, Any]) -> PretrainingRecord:
    """Reads one pretraining row; a row with `text` and no `docs` is an unlabelled document.

    Raises:
        ValueError: if the row lacks a document or answers, or its `data_type` is unknown.
    """
    if "docs" not in row and "text" in row:
        return PretrainingRecord(to_corpus({"id": "row", **row}).document, id=_id(row))
    documents = _documents(row)
    if len(documents) != 1:
        raise ValueError(f"`docs` must hold exactly one document in a pretraining row, got {len(documents)}.")
    data_type = row.get("data_type", "qa")
    answers = _as_list(row.get("answers", row.get("answer")))
    if not answers:
        raise ValueError("`answers` is missing or empty: a pretraining row needs at least one answer.")
    if data_type == "paraphrase":
        return PretrainingRecord(documents[0], paraphrases=tuple(answers), id=_id(row))
    if data_type != "qa":
        raise ValueError(f"`data_type` must be 'qa' or 'paraphrase', got {data_type!r}.")
    questions = _as_list(row.get("question"))
    accepted = _as_list(row.get("accepted_answers")) or answers
    return PretrainingRecord(
        documents[0],
        tuple(questions),
        tuple(tuple(_as_list(answer)) for answer in accepted),
        id=_id(row),
        findable=tuple(map(bool, row.get("findable") or ())),
    )


def to_questions(row: Mapping[str, Any]) -> list[QuestionRecord]:
    """Reads one question row; a row with `document` and `qa` (a long document) gives one record a question.

    Raises:
        ValueError: if the row lacks a question, documents or answers, or `pos_index` is out of range.
    """
    if "document" in row and "qa" in row:
        return [_long_document_question(row, index, pair) for index, pair in enumerate(row["qa"])]
    question = row.get("question")
    if isinstance(question, list) and len(question) == 1:
        question = question[0]
    answers, generated = _gold_and_generated(row)
    return [
        QuestionRecord(
            question=question,
            answers=answers,
            documents=tuple(_documents(row)),
            positives=tuple(_as_list(row.get("pos_index")) or _as_list(row.get("positives"))),
            generated=generated,
            id=_id(row),
        )
    ]


def to_corpus(row: Mapping[str, Any]) -> CorpusRecord:
    """Reads one corpus row: `id`, `text` and, optionally, `title`.

    Raises:
        ValueError: if `id` or `text` is missing or empty.
    """
    for field in ("id", "text"):
        if row.get(field) is None:
            raise ValueError(f"`{field}` is missing: a corpus row needs `id` and `text`, got {sorted(row)}.")
    return CorpusRecord(id=str(row["id"]), text=row["text"], title=row.get("title") or None)


def pretraining_rows(record: PretrainingRecord) -> list[dict[str, Any]]:
    """Writes one record as rows: a "qa" row, a "paraphrase" row, or a `text` row without either."""
    name = {} if record.id is None else {"id": record.id}
    rows = []
    if record.questions:
        row = _pretraining_row("qa", list(record.questions), [a[0] for a in record.answers], record.document)
        if any(len(a) > 1 for a in record.answers):
            row["accepted_answers"] = [list(a) for a in record.answers]
        if record.findable:
            row["findable"] = list(record.findable)
        rows.append(row | name)
    if record.paraphrases:
        rows.append(_pretraining_row("paraphrase", [], list(record.paraphrases), record.document) | name)
    return rows or [{"text": record.document, **name}]


def question_row(record: QuestionRecord) -> dict[str, Any]:
    """Writes one record as a row; `answer` is the target, `golden_answers` the references."""
    row = {
        "question": record.question,
        "golden_answers": list(record.answers),
        "answer": record.target,
        "docs": list(record.documents),
        "pos_index": list(record.positives),
    }
    return row if record.id is None else {"id": record.id, **row}


def corpus_row(record: CorpusRecord) -> dict[str, Any]:
    """Writes one corpus record as a row."""
    row = {"id": record.id, "text": record.text}
    return row if record.title is None else {**row, "title": record.title}


def _pretraining_row(data_type: str, questions: list, answers: list, document: str) -> dict[str, Any]:
    return {"data_type": data_type, "question": questions, "answers": answers, "docs": [document]}


def _long_document_question(row: Mapping[str, Any], index: int, pair: Mapping[str, Any]) -> QuestionRecord:
    answers, _ = _gold_and_generated(pair)
    name = f"{row['id']}-{index}" if "id" in row else None
    return QuestionRecord(pair.get("question"), answers, (row["document"],), (0,), id=name)


def _gold_and_generated(row: Mapping[str, Any]) -> tuple[tuple[str, ...], str | None]:
    """Returns the gold answers and the teacher's (`answer`, if a gold field stands beside it)."""
    answer = row.get("answer")
    gold = [text for field in GOLD_FIELDS for text in _as_list(row.get(field))]
    gold = list(dict.fromkeys(gold or _as_list(row.get("answers"))))
    if not gold:
        gold, answer = _as_list(answer), None
    if not gold:
        raise ValueError(
            f"no answers: give `golden_answers`, `gold_answer`, `answers` or `answer`, got {sorted(row)}."
        )
    return tuple(gold), answer


def _documents(row: Mapping[str, Any]) -> list[str]:
    documents = _as_list(row.get("docs")) or _as_list(row.get("documents"))
    if not documents:
        raise ValueError(
            f"`docs` (or `documents`) is missing or empty: a row needs one at least, got {sorted(row)}."
        )
    return documents


def _as_list(value: Any) -> list:
    """Returns a list of what is there: nothing, one value or several."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _id(row: Mapping[str, Any]) -> str | None:
    return None if row.get("id") is None else str(row["id"])
