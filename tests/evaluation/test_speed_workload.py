"""The texts that are measured have the lengths that were asked for."""

from dataclasses import replace

import pytest
import torch
from clara.evaluation.speed import workload
from clara.prompts_clara import plain_ids
from speed_helpers import TINY


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


def test_documents_are_nearly_as_long_as_asked(shared_model):
    found = workload.sample_memory(shared_model, 6, replace(TINY, document_tokens=60)).texts
    assert all(40 < length <= 60 for length in lengths(shared_model.processor.tokenizer, found))
    assert len(set(found)) == 6


def test_asks_for_no_more_than_there_is(shared_model):
    with pytest.raises(ValueError, match="`documents` must be at most 106"):
        workload.sample_memory(shared_model, 107, TINY)


def test_a_device_decides_how_much():
    amounts = [workload.sizes_for(torch.device(name)).passages for name in ("cpu", "cuda")]
    assert amounts[0] < amounts[1]
