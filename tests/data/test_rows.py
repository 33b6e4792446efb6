from clara.data.records import CorpusRecord, PretrainingRecord, QuestionRecord
from clara.data.rows import (
    corpus_row,
    pretraining_rows,
    question_row,
    to_corpus,
    to_pretraining,
    to_questions,
)


def test_pretraining_rows_are_the_released_schema():
    record = PretrainingRecord("d", ["q"], [["a"]], ["p1", "p2"])
    assert pretraining_rows(record) == [
        {"data_type": "qa", "question": ["q"], "answers": ["a"], "docs": ["d"]},
        {"data_type": "paraphrase", "question": [], "answers": ["p1", "p2"], "docs": ["d"]},
    ]


def test_several_accepted_answers_survive_beside_the_released_fields():
    record = PretrainingRecord("d", ["q1", "q2"], [["a", "b"], ["c"]], id="x")
    (row,) = pretraining_rows(record)
    assert row["answers"] == ["a", "c"]
    assert to_pretraining(row) == record


def test_unlabelled_record_is_a_text_row():
    assert pretraining_rows(PretrainingRecord("d")) == [{"text": "d"}]


def test_question_row_round_trip():
    record = QuestionRecord("q", ["a", "b"], ["d", "e"], [1], generated="the teacher says a", id="7")
    row = question_row(record)
    assert (row["answer"], row["golden_answers"], row["pos_index"]) == ("the teacher says a", ["a", "b"], [1])
    assert to_questions(row) == [record]


def test_our_own_names_are_read_in_place_of_the_released_ones():
    (record,) = to_questions({"question": "q", "answers": ["a"], "documents": ["d", "e"], "positives": [1]})
    assert record == QuestionRecord("q", ["a"], ["d", "e"], [1])


def test_corpus_row_round_trip():
    record = CorpusRecord("1", "text", "title")
    assert to_corpus(corpus_row(record)) == record
    assert corpus_row(CorpusRecord("1", "text")) == {"id": "1", "text": "text"}
