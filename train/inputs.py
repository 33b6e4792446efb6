"""What a user trains and evaluates on, as records: data sets of `datasets`, dictionaries, or records.

Pretraining reads `document` (or `context`, or `docs` of one), `question` or `questions`, `answers` and
`paraphrases`, or `text` alone. The other stages read `question`, `answers` (or `answer`), `documents` (or
`docs`, or `context` as the only one) and `positives` (or `pos_index`), the places of the gold documents.

`answers` may be SQuAD's mapping of `text`. The paper's released columns (`data_type`, `docs`, `gold_answer`,
`golden_answers`, `pos_index`) are read as from its files. Other columns are left alone.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..data.collation import RecordDataset
from ..data.joining import join_documents
from ..data.records import PretrainingRecord, QuestionRecord
from ..data.rows import to_pretraining, to_questions

logger = logging.getLogger(__name__)

NEEDED = {
    "pretraining": "`document` (or `context`, `docs`, `text`), and for its signals `question`, `answers`, "
    "`paraphrases`",
    "other": "`question`, `answers`, `documents` (or `context`, `docs`), `positives` where they are known",
}


def as_dataset(rows: Any, stage: str, name: str, limit: int | None = None) -> Any:
    """Rows of any kind as a `RecordDataset`, a mapping of them as a mapping; None and such datasets as is.

    Args:
        rows: A `datasets.Dataset` or `IterableDataset`, dictionaries, records, or a mapping of those.
        stage: The stage of training.
        name: The argument that they were given as.
        limit: Rows that are taken at most, for a stream without an end.

    Raises:
        TypeError: If `rows` are no rows.
        ValueError: If there are none, or one lacks a column or holds a bad value; names argument and row.
    """
    if rows is None or hasattr(rows, "lengths"):
        return rows
    if isinstance(rows, Mapping):
        return {key: as_dataset(part, stage, f"{name}[{key!r}]", limit) for key, part in rows.items()}
    if isinstance(rows, str) or not isinstance(rows, Iterable):
        raise TypeError(
            f"`{name}` must be a `datasets.Dataset`, a list of dictionaries or of records, got "
            f"{type(rows).__name__}: load it first, for example with `datasets.load_dataset`."
        )
    if not hasattr(rows, "__len__"):
        rows = itertools.islice(rows, limit)
    records = list(to_records(rows, stage, name))
    if not records:
        raise ValueError(f"`{name}` is empty: there is nothing to train or evaluate on.")
    return RecordDataset(records)


def to_records(rows: Iterable[Any], stage: str, name: str) -> Iterator[PretrainingRecord | QuestionRecord]:
    """Rows as the stage's records: pretraining rows of one document joined, pools without copies."""
    records = itertools.chain.from_iterable(_parsed(rows, stage, name))
    if stage == "pretraining":
        return join_documents(records)
    return (record.without_copies() for record in records)


def _parsed(rows: Iterable[Any], stage: str, name: str) -> Iterator[Sequence[Any]]:
    for place, row in enumerate(rows):
        try:
            yield [row] if _is_record(row, stage) else _parse(row, stage)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"`{name}` row {place}: {error}") from error


def _is_record(row: Any, stage: str) -> bool:
    if isinstance(row, Mapping):
        return False
    fields = ("document", "questions") if stage == "pretraining" else ("question", "documents")
    if not all(hasattr(row, field) for field in fields):
        kind = "PretrainingRecord" if stage == "pretraining" else "QuestionRecord"
        raise TypeError(f"stage {stage!r} takes {kind}s or dictionaries, got {type(row).__name__}.")
    return True


def _parse(row: Mapping[str, Any], stage: str) -> Sequence[Any]:
    given = {key: value for key, value in row.items() if value is not None}
    needed = NEEDED["pretraining" if stage == "pretraining" else "other"]
    found = _pretraining(given) if stage == "pretraining" else _questions(given)
    if found is None:
        raise ValueError(f"has the columns {sorted(row)}, but stage {stage!r} needs {needed}: rename them.")
    return found


def _answers(value: Any) -> list[str]:
    """Accepted answers: a text, a list of them, or SQuAD's mapping."""
    value = value.get("text", ()) if isinstance(value, Mapping) else value
    return [value] if isinstance(value, str) else list(value)


def _pretraining(row: dict[str, Any]) -> list[PretrainingRecord] | None:
    if "docs" in row or ("text" in row and not row.keys() & {"document", "context"}):
        return [to_pretraining(row)]
    document = row.get("document", row.get("context"))
    if document is None:
        return None
    if "questions" in row:
        answers = [tuple(_answers(each)) for each in row.get("answers", ())]
        questions = list(row["questions"])
    else:
        questions = [row["question"]] if "question" in row else []
        answers = [tuple(_answers(row.get("answers", row.get("answer", ()))))] if questions else []
    return [PretrainingRecord(document, tuple(questions), tuple(answers), tuple(row.get("paraphrases", ())))]


def _questions(row: dict[str, Any]) -> list[QuestionRecord] | None:
    if "document" in row and "qa" in row:
        return to_questions(row)
    named = dict(row)
    if not named.keys() & {"docs", "documents"} and "context" in named:
        context = named["context"]
        named["docs"] = [context] if isinstance(context, str) else list(context)
        if isinstance(context, str) and "positives" not in named:
            named.setdefault("pos_index", [0])
    answered = named.keys() & {"answers", "answer", "gold_answer", "golden_answers"}
    if "question" not in named or not named.keys() & {"docs", "documents"} or not answered:
        return None
    if "answers" in named:
        named["answers"] = _answers(named["answers"])
    return to_questions(named)
