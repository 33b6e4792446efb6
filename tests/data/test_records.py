import pytest
from clara.data.records import CorpusRecord, PretrainingRecord, QuestionRecord


def question(num_documents=2, **fields):
    values = {"question": "q?", "answers": ["a"], "documents": [f"d{i}" for i in range(num_documents)]}
    return QuestionRecord(**{**values, **fields})


def test_pretraining_record_counts_its_signals_and_keeps_tuples():
    record = PretrainingRecord("d", ["q1", "q2"], [["a1", "b1"], ["a2"]], ["p"])
    assert record.num_signals == 3
    assert record.answers == (("a1", "b1"), ("a2",))
    assert record == PretrainingRecord("d", ("q1", "q2"), (("a1", "b1"), ("a2",)), ("p",))


def test_unlabelled_document_is_a_record():
    assert PretrainingRecord("d").num_signals == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"document": " \n"}, "`document` is an empty string"),
        ({"document": None}, "`document` must be a string, got NoneType"),
        ({"document": "d", "questions": ["q"]}, "got 1 questions and 0 answers"),
        ({"document": "d", "questions": ["q"], "answers": [[]]}, r"`answers\[0\]` is empty"),
        ({"document": "d", "questions": ["q"], "answers": ["yes"]}, r"`answers\[0\]` must be a sequence"),
        (
            {"document": "d", "questions": ["q", ""], "answers": [["a"], ["b"]]},
            r"`questions\[1\]` is an empty",
        ),
        ({"document": "d", "paraphrases": "p"}, "Wrap it in a list"),
    ],
)
def test_bad_pretraining_records_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PretrainingRecord(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question": ""}, "`question` is an empty string"),
        ({"answers": []}, "`answers` is empty: at least one"),
        ({"documents": []}, "`documents` is empty: at least one"),
        ({"documents": ["d", " "]}, r"`documents\[1\]` is an empty"),
        ({"positives": [2]}, "holds 2, but the row has 2 documents: indices go from 0 to 1"),
        ({"positives": [-1]}, "holds -1"),
        ({"positives": [0, 0]}, "names a document twice"),
        ({"positives": ["0"]}, "must hold integers"),
        ({"generated": ""}, "`generated` is an empty string"),
    ],
)
def test_bad_question_records_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        question(**fields)


def test_target_is_the_teachers_answer_where_it_differs():
    assert question(generated="the a").target == "the a"
    assert question(generated="a").generated is None
    assert question().target == "a"


def test_corpus_record_joins_title_and_text():
    assert CorpusRecord("1", "text", "Title").document == "Title\ntext"
    assert CorpusRecord("1", "text").document == "text"
    with pytest.raises(ValueError, match="`text` is an empty"):
        CorpusRecord("1", "")
