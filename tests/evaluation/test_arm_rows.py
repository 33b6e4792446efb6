"""Rows of the arms: pools of a size, and rows with some signals."""

import json

import pytest
from clara.data.readers import read_pretraining, read_questions
from clara.data.records import QuestionRecord
from clara.evaluation.arm_rows import (
    PRETRAINING,
    QUESTIONS,
    cut_pool,
    tiny_questions,
    write_pools,
    write_signals,
)

RECORD = QuestionRecord("q", ("a",), ("d0", "d1", "d2", "d3", "d4"), (3, 1))


def test_a_cut_pool_keeps_positives_and_order():
    cut = cut_pool(RECORD, 3)
    assert (cut.documents, cut.positives) == (("d0", "d1", "d3"), (2, 1))
    assert cut_pool(RECORD, None) is RECORD
    assert cut_pool(RECORD, 5) is RECORD
    with pytest.raises(ValueError, match="has 2 positives, more than `pool_size` = 1"):
        cut_pool(RECORD, 1)


def test_tiny_questions_have_full_pools_with_their_document():
    records = tiny_questions(6)
    asked = {record.question for record in read_questions(QUESTIONS)}
    assert asked < {record.question for record in records}
    for record in records:
        assert len(set(record.documents)) == 6
        assert record.answers[0].split()[-1].lower() in record.documents[record.positives[0]].lower()


def test_written_pools_are_read_back(tmp_path):
    path = write_pools([str(QUESTIONS)], None, tmp_path)
    assert [len(record.documents) for record in read_questions(path)] == [8] * len(tiny_questions())
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "q", "answer": "a", "docs": ["x", "y", "z"], "pos_index": [2]}))
    (record,) = read_questions(write_pools([str(file)], 2, tmp_path))
    assert (record.documents, record.positives) == (("x", "z"), (1,))


def test_rows_with_signals_hold_no_others(tmp_path):
    def read(*signals):
        return list(read_pretraining(write_signals([str(PRETRAINING)], signals, tmp_path)))

    everything = list(read_pretraining(PRETRAINING))
    told = read("paraphrase")
    assert told and all(r.paraphrases and not r.questions for r in told)
    assert len(told) == sum(bool(r.paraphrases) for r in everything)
    assert all(r.questions and not r.paraphrases for r in read("answer"))
    assert len(read("reconstruction")) == len(everything)
    with pytest.raises(ValueError, match="no row of"):
        write_signals([str(PRETRAINING)], [], tmp_path)
