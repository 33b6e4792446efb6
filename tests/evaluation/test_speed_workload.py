"""The texts that are measured have the lengths that were asked for."""

import pytest
from clara.data.sample_corpus import sample_texts
from clara.evaluation.speed import workload
from clara.prompts_clara import plain_ids


def lengths(tokenizer, texts):
    return [len(ids) for ids in plain_ids(tokenizer, texts)]


def test_cuts_at_a_words_end(tokenizer):
    text = "The Forth Bridge is a railway bridge in Scotland."
    short = workload.cut(tokenizer, text, 8)
    assert text.startswith(short) and text[len(short)] == " "
    assert lengths(tokenizer, [short])[0] <= 8
    assert workload.cut(tokenizer, text, 1_000) == text


def test_passages_lie_between_the_limits(tokenizer):
    found = workload.sample_passages(tokenizer, 10, (30, 40))
    assert len(found) == 10
    assert all(30 <= length <= 40 for length in lengths(tokenizer, found))


def test_documents_are_nearly_as_long_as_asked(tokenizer):
    found = workload.sample_documents(tokenizer, 6, 900)
    assert all(800 < length <= 900 for length in lengths(tokenizer, found))
    assert len(set(found)) == 6


def test_asks_for_no_more_than_there_is(tokenizer):
    with pytest.raises(ValueError, match="`documents` must be at most 106"):
        workload.sample_documents(tokenizer, 107, 50)


def test_questions_name_the_passages_that_hold_their_answers():
    texts = sample_texts()
    for _, answer, positives in workload.sample_questions():
        assert any(answer in texts[index] for index in positives)
