"""The sample corpus as code sees it: the files' rows, and what the readers make of them."""

from clara.data.readers import read_corpus, read_rows
from clara.data.sample_corpus import CORPUS, QUESTIONS, sample_documents, sample_questions, sample_texts


def test_rows_are_those_of_the_files():
    assert sample_documents() == [row for _, row in read_rows(CORPUS)]
    assert sample_questions() == [row for _, row in read_rows(QUESTIONS)]
    assert sample_documents()[0]["id"] == "golden-gate-bridge"
    assert sample_questions()[0]["positives"] == [0]


def test_texts_carry_their_titles():
    assert sample_texts() == [record.document for record in read_corpus(CORPUS)]
    assert sample_texts()[0].startswith("Golden Gate Bridge\nThe Golden Gate Bridge crosses")
