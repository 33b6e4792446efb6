"""What a user gives as rows becomes the stage's records, or one line that says what is wrong."""

import itertools
import re

import pytest
from clara.data.collation import RecordDataset
from clara.data.records import PretrainingRecord, QuestionRecord
from clara.train.inputs import as_dataset
from conftest import DOCUMENTS
from datasets import Dataset, IterableDataset
from training_helpers import PRETRAINING, QUESTION_ROWS

BRIDGE, TITAN = DOCUMENTS[0], DOCUMENTS[2]
ASKED = QuestionRecord("Who found Titan?", ("Huygens",), (BRIDGE, TITAN), (1,))
ALONE = QuestionRecord("Who found Titan?", ("Huygens",), (TITAN,), (0,))
LEARNT = PretrainingRecord(TITAN, ("Who found Titan?",), (("Huygens",),))
ROW = {"question": "Q?", "answers": ["a"], "documents": ["d"]}
QUESTIONS = {
    "own names": (dict(question="Who found Titan?", answers=["Huygens"], documents=[BRIDGE, TITAN],
                       positives=[1]), ASKED),
    "the paper's": (dict(question="Who found Titan?", golden_answers=["Huygens"], docs=[BRIDGE, TITAN],
                         pos_index=[1]), ASKED),
    "one context": (dict(question="Who found Titan?", context=TITAN, answers="Huygens"), ALONE),
    "SQuAD's": (dict(id="1", title="Titan", question="Who found Titan?", context=TITAN,
                     answers={"text": ["Huygens"], "answer_start": [3]}),
                QuestionRecord(*list(vars(ALONE).values())[:4], id="1")),
}  # fmt: skip
DOCUMENT_ROWS = {
    "own names": (dict(document=TITAN, questions=["Who found Titan?"], answers=[["Huygens"]]), LEARNT),
    "the paper's": (dict(data_type="qa", question=["Who found Titan?"], answers=["Huygens"], docs=[TITAN]),
                    LEARNT),
    "SQuAD's": (dict(question="Who found Titan?", context=TITAN,
                     answers={"text": ["Huygens"], "answer_start": [3]}), LEARNT),
    "text": ({"text": TITAN}, PretrainingRecord(TITAN)),
    "paraphrases": (dict(document=TITAN, paraphrases=["A moon."]),
                    PretrainingRecord(TITAN, (), (), ("A moon.",))),
}  # fmt: skip


@pytest.mark.parametrize(
    "kind", [list, Dataset.from_list, lambda rows: IterableDataset.from_generator(lambda: rows)]
)
@pytest.mark.parametrize("columns", QUESTIONS)
def test_question_rows_of_every_kind(columns, kind):
    row, expected = QUESTIONS[columns]
    rows = iter([row]) if kind is not list and kind is not Dataset.from_list else kind([row])
    assert as_dataset(rows, "end_to_end", "train_dataset").records == [expected]


@pytest.mark.parametrize("columns", DOCUMENT_ROWS)
def test_document_rows(columns):
    row, expected = DOCUMENT_ROWS[columns]
    assert as_dataset(Dataset.from_list([row]), "pretraining", "train_dataset").records == [expected]


def test_rows_of_one_document_are_joined_and_pools_have_no_copies():
    rows = [
        {"context": TITAN, "question": q, "answers": [a]} for q, a in (("Who?", "Huygens"), ("When?", "1655"))
    ]
    (record,) = as_dataset(rows, "pretraining", "train_dataset").records
    assert record.questions == ("Who?", "When?") and record.answers == (("Huygens",), ("1655",))
    pool = {"question": "Q?", "answers": ["a"], "documents": [TITAN, BRIDGE, TITAN], "positives": [2]}
    (record,) = as_dataset([pool], "end_to_end", "train_dataset").records
    assert record.documents == (TITAN, BRIDGE) and record.positives == (0,)


def test_records_mappings_and_streams():
    both = as_dataset({"a": PRETRAINING[:2], "b": [PRETRAINING[0]]}, "pretraining", "eval_dataset")
    assert [len(both[name]) for name in "ab"] == [2, 1]
    known = RecordDataset(QUESTION_ROWS)
    assert as_dataset(known, "end_to_end", "eval_dataset") is known
    assert as_dataset(None, "end_to_end", "eval_dataset") is None
    endless = itertools.cycle(QUESTION_ROWS)
    assert len(as_dataset(endless, "end_to_end", "train_dataset", limit=11)) == 11


@pytest.mark.parametrize(
    ("stage", "rows", "message"),
    [
        ("end_to_end", [{"query": "Q?", "answers": ["a"]}],
         r"`train_dataset` row 0: has the columns \['answers', 'query'\], but stage 'end_to_end' needs `qu"),
        ("pretraining", [{"passage": "x"}], "`train_dataset` row 0: has the columns .* needs `document`"),
        ("end_to_end", [ASKED, {**ROW, "answers": []}], "`train_dataset` row 1: no answers"),
        ("end_to_end", [{**ROW, "positives": [1]}], "row 0: `positives` holds 1, but the row has 1 doc"),
        ("end_to_end", [{**ROW, "answers": [" "]}], r"row 0: `answers\[0\]` is an empty"),
        ("end_to_end", PRETRAINING, "row 0: stage 'end_to_end' takes QuestionRecords or dictionaries, got"),
        ("pretraining", [], "`train_dataset` is empty"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(stage, rows, message):
    with pytest.raises(ValueError, match=message):
        as_dataset(rows, stage, "train_dataset")


@pytest.mark.parametrize("rows", ["squad", 3])
def test_what_is_no_rows_is_refused(rows):
    with pytest.raises(TypeError, match=re.escape("`train_dataset` must be a `datasets.Dataset`, a list")):
        as_dataset(rows, "end_to_end", "train_dataset")
