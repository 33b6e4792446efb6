"""What an answer owes to its passages, by hand."""

import pytest
from clara.data.sources import is_supported, likely_span

TEXT = "The bridge is in Scotland. It was opened in 1890.\nThe line was closed in 1970! Trains ran until then"


@pytest.mark.parametrize(
    ("question", "answer", "sentence"),
    [
        ("When was it opened?", "1890", "It was opened in 1890."),
        ("When was the bridge opened?", "in 1970", "The line was closed in 1970!"),
        ("Where is the bridge?", "", "The bridge is in Scotland."),
        ("What ran?", "TRAINS", "Trains ran until then"),
        ("Nothing of this", "at all", "The bridge is in Scotland."),
    ],
)
def test_the_sentence_with_most_words_of_the_answer(question, answer, sentence):
    start, end = likely_span(TEXT, question, answer)
    assert TEXT[start:end] == sentence


def test_texts_without_sentences():
    assert likely_span("Titan", "Who?") == (0, 5)
    assert likely_span("  \n ", "Who?") == (0, 4)


@pytest.mark.parametrize(
    ("answer", "supported"),
    [
        ("It was opened in 1890.", True),
        ("1890", True),
        ("Leipzig", False),
        ("The bridge was opened in Leipzig by Clara Schumann", False),
        ("in 1655", False),
        ("", False),
        ("of it", False),
    ],
)
def test_an_answer_whose_words_stand_nowhere_is_not_supported(answer, supported):
    assert is_supported(answer, ["Titan is a moon.", TEXT]) is supported
