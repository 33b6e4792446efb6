"""Cutting long texts: every passage fits, nothing but white space is lost."""

import pytest
from clara.splitting_clara import split_text
from clara.tokens_clara import plain_ids, plain_offsets
from conftest import DOCUMENTS, make_tokenizer

TEXTS = [" ".join(DOCUMENTS), "x" * 200, "\U0001f600" * 30, "a  b\n\n" * 40]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("limit", [4, 17])
def test_passages_fit_and_hold_everything(text, limit):
    tokenizer = make_tokenizer()
    passages = split_text(tokenizer, text, plain_offsets(tokenizer, [text])[0], limit)
    assert "".join("".join(passages).split()) == "".join(text.split())
    longest = max(len(ids) for ids in plain_ids(tokenizer, passages))
    assert longest <= limit


def test_cuts_lie_at_white_space():
    tokenizer, text = make_tokenizer(), "one two three four five six seven eight"
    passages = split_text(tokenizer, text, plain_offsets(tokenizer, [text])[0], 8)
    assert len(passages) > 1 and " ".join(passages) == text
