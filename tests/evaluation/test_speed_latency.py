"""Both paths answer the same question; the one from text reads what the search found."""

from dataclasses import replace

import pytest
import torch
from clara.data.text_prompts import text_prompt_ids
from clara.evaluation.language_models import TextModel
from clara.evaluation.speed.latency import (
    FIRST,
    PATHS,
    FirstToken,
    bench_latency,
    latency_runs,
    part_runs,
    read_text,
    tokens_read,
)
from conftest import DOCUMENTS, QUESTIONS
from speed_helpers import TINY


@pytest.fixture(scope="module")
def memory(shared_model):
    return shared_model.build_memory(DOCUMENTS, show_progress=False)


def test_the_clock_notes_the_first_token_after_the_prompt():
    clock = FirstToken()
    clock.put(torch.tensor([[1, 2]]))
    assert clock.seconds != clock.seconds
    clock.put(torch.tensor([3]))
    first = clock.seconds
    clock.put(torch.tensor([4]))
    clock.end()
    assert 0 <= first == clock.seconds


def test_both_paths_give_the_asked_number_of_tokens_and_a_first_one(shared_model, memory):
    found = [shared_model.retrieve(QUESTIONS[0], memory, 2).indices]
    runs = latency_runs(shared_model, shared_model, memory, QUESTIONS, found, 4)
    assert tuple(runs) == PATHS
    for run in runs.values():
        assert run(0)[FIRST] > 0


def test_text_is_read_as_the_baseline_of_the_evaluation_reads_it(shared_model):
    tokenizer, documents = shared_model.processor.tokenizer, DOCUMENTS[2:4]
    baseline = TextModel(shared_model.decoder, tokenizer, shared_model.config.prompt_limit)
    ids = text_prompt_ids(tokenizer, QUESTIONS[1], documents)
    expected, length = baseline.answer([ids], 6)[0]
    assert read_text(shared_model, QUESTIONS[1], documents, max_new_tokens=6) == expected != ""
    assert length == len(ids)


def test_tokens_read_are_the_prompts_of_both_paths(shared_model, memory):
    template = shared_model.processor.encode_prompts(QUESTIONS[:1], [[4]])["input_ids"].shape[1] - 4
    found = [4, 0]
    assert tokens_read(shared_model, QUESTIONS[0], memory, found, "memories") == template + 2 * 4 + 1
    ids = text_prompt_ids(shared_model.processor.tokenizer, QUESTIONS[0], [DOCUMENTS[4], DOCUMENTS[0]])
    assert tokens_read(shared_model, QUESTIONS[0], memory, found, "text") == len(ids)


def test_parts_run_alone(shared_model, memory):
    runs = part_runs(shared_model, memory, QUESTIONS, 2)
    assert len(runs) == 5
    assert [run(1) for run in runs.values()] == [None] * 5


def test_reports_every_number_of_documents(shared_model):
    section = bench_latency(shared_model, TINY, 2)
    names = [item.name for item in section.lines]
    assert names[:4] == [
        "1 documents from memories, first token",
        "1 documents from memories, 3 tokens",
        "1 documents from memories, merged, first token",
        "1 documents from memories, merged, 3 tokens",
    ]
    assert len(names) == 2 * 6 + 5
    first, whole = section.lines[0], section.lines[1]
    assert all(one < other for one, other in zip(first.seconds, whole.seconds, strict=True))
    assert len(section.ratios) == 2 * 4
    read = section.facts["tokens read by the generator, 6 documents"]
    assert 0 < read["memories"] < read["text"]


def test_five_documents_have_to_be_five_times_as_fast(shared_model):
    sizes = replace(TINY, documents=(5,), new_tokens=2)
    needed = [item.needed for item in bench_latency(shared_model, sizes, 1).ratios]
    assert needed == [None, None, 5.0, None]
