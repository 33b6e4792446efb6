"""Rows of training: full pools, documents with enough signals, one signal a row."""

import json

import pytest
from clara.data.records import PretrainingRecord, QuestionRecord
from clara.data.sample_corpus import sample_texts
from clara.evaluation.speed.rows import (
    file_rows,
    filled,
    neighbours,
    sample_rows,
    single_signals,
    spread,
    trimmed,
)
from conftest import DOCUMENTS
from speed_helpers import TINY

RICH = PretrainingRecord("text", ("a", "b"), (("1",), ("2", "zwei")), ("words", "terms"))


def test_spreads_over_the_source():
    assert spread("abcdef", 3) == ["a", "c", "e"]
    with pytest.raises(ValueError, match="needs 3 rows of a kind, the source has 2"):
        spread("ab", 3)


def test_neighbours_begin_with_the_gold_documents_and_never_repeat():
    assert neighbours("abcd", (2, 0), 4) == ("c", "a", "d", "b")


def test_single_signals_keep_all_of_them():
    rows = single_signals(RICH)
    assert [row.questions + row.paraphrases for row in rows] == [("a",), ("b",), ("words",), ("terms",)]
    assert {row.document for row in rows} == {"text"}
    assert rows[1].answers == (("2", "zwei"),)


def test_trimming_keeps_questions_first_and_one_paraphrase():
    assert trimmed(RICH, 1).num_signals == 1 and trimmed(RICH, 1).questions == ("a",)
    assert trimmed(RICH, 9).paraphrases == ("words",) and trimmed(RICH, 9).questions == ("a", "b")


def test_pools_are_filled_with_the_best_others():
    pytest.importorskip("bm25s")
    row = QuestionRecord("who found titan", ("Huygens",), ("own", "other"), (1,))
    (found,) = filled([row], DOCUMENTS, 3)
    assert found.documents == ("own", "other", DOCUMENTS[2]) and found.positives == (1,)
    (cut,) = filled([row], DOCUMENTS, 1)
    assert cut.documents == ("own",) and cut.positives == ()
    with pytest.raises(ValueError, match="too few different documents to fill pools of 9"):
        filled([row], DOCUMENTS, 9)


def test_sample_rows_are_complete():
    rows = sample_rows(TINY, 2)
    assert len(rows.questions) == 4 and len(rows.rich) == 4
    assert all(len(set(row.documents)) == TINY.candidates for row in rows.questions)
    assert {row.num_signals for row in rows.rich} == {3}
    assert {row.num_signals for row in rows.plain} == {1}
    assert [row.document for row in rows.plain] == sample_texts()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_file_rows_take_documents_with_three_signals(tmp_path):
    pytest.importorskip("bm25s")
    questions = [{"question": f"q {i}", "answer": "a", "docs": ["d"], "pos_index": [0]} for i in range(2)]
    corpus = [{"id": str(i), "text": text} for i, text in enumerate(DOCUMENTS)]
    pretraining = [
        {
            "data_type": "qa",
            "question": list("abcd")[: i + 1],
            "answers": list("wxyz")[: i + 1],
            "docs": [f"d{i}"],
        }
        for i in range(4)
    ]
    rows = file_rows(
        write(tmp_path / "q.jsonl", questions),
        write(tmp_path / "c.jsonl", corpus),
        [
            write(tmp_path / "p.jsonl", pretraining * 2),
            write(tmp_path / "e.jsonl", [{"text": "plain", "id": "1"}]),
        ],
        TINY.__class__(candidates=4, questions=2, rows=2, signals=3, bucket_rows=4),
        1,
    )
    assert [len(row.documents) for row in rows.questions] == [4, 4]
    assert [(row.document, row.num_signals) for row in rows.rich] == [("d2", 3), ("d3", 3)]
    assert [row.document for row in rows.plain] == ["d0", "d1", "d2", "d3"]
    assert rows.source == "q.jsonl, c.jsonl, p.jsonl, e.jsonl"
