"""Latency, batches and search: all paths answer the same question, with as many tokens as asked."""

from dataclasses import replace

import pytest
import torch
from clara.data.text_prompts import text_prompt_ids
from clara.evaluation.speed.answering import (
    PATHS,
    FirstToken,
    bench_generation,
    bench_latency,
    bench_search,
    generation_runs,
    latency_runs,
    named,
    part_runs,
    random_memory,
    text_ids,
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


def test_all_paths_give_a_first_token_before_the_last(shared_model, memory):
    found = [shared_model.retrieve(QUESTIONS[0], memory, 2).indices]
    runs = latency_runs(shared_model, shared_model, memory, QUESTIONS, found, 4)
    assert list(runs) == [named(2, path, "4 tokens") for path in PATHS]
    for path, run in zip(PATHS, runs.values(), strict=True):
        (mark,) = run(0).items()
        assert mark[0] == named(2, path, "first token") and mark[1] > 0


def test_tokens_read_are_the_prompts_of_both_paths(shared_model, memory):
    template = shared_model.processor.encode_prompts(QUESTIONS[:1], [[4]])["input_ids"].shape[1] - 4
    found = [4, 0]
    ids = text_prompt_ids(shared_model.processor.tokenizer, QUESTIONS[0], [DOCUMENTS[4], DOCUMENTS[0]])
    assert text_ids(shared_model, QUESTIONS[0], memory, found) == ids
    read = tokens_read(shared_model, QUESTIONS[0], memory, found)
    assert read == {"memories": template + 2 * 4 + 1, "text": len(ids)}


def test_parts_run_alone(shared_model, memory):
    runs = part_runs(shared_model, memory, QUESTIONS[:1], 2)
    parts = [run(1) for run in runs.values()]
    assert len(parts) == 5 and parts[0] == memory.fingerprint and not parts[2].values.requires_grad


def test_reports_every_number_of_documents(shared_model):
    section = bench_latency(shared_model, TINY, 2)
    names = [item["name"] for item in section["variants"]]
    assert names[:4] == [
        "1 documents from memories, first token",
        "1 documents from memories, 3 tokens",
        "1 documents from memories, merged, first token",
        "1 documents from memories, merged, 3 tokens",
    ]
    assert len(names) == 2 * 6 + 5
    first, whole = section["variants"][:2]
    assert all(one < other for one, other in zip(first["seconds"], whole["seconds"], strict=True))
    assert len(section["ratios"]) == 2 * 4
    read = section["facts"]["tokens read by the generator, 6 documents"]
    assert 0 < read["memories"] < read["text"]


def test_five_documents_have_to_be_five_times_as_fast(shared_model):
    sizes = replace(TINY, documents=(5,), new_tokens=2)
    needed = [item["needed"] for item in bench_latency(shared_model, sizes, 1)["ratios"]]
    assert needed == [None, None, 5.0, None]


@pytest.fixture
def answers(shared_model, monkeypatch):
    """What was answered, in order: questions, texts, number of new tokens."""
    memory, said = shared_model.build_memory(DOCUMENTS, show_progress=False), []
    generate = shared_model.generate

    def noted(questions, *args, **kwargs):
        out = generate(questions, *args, return_dict_in_generate=True, **kwargs)
        said.extend(zip(questions, out.answers, [out.sequences.shape[1]] * len(questions), strict=True))
        return out.answers

    monkeypatch.setattr(shared_model, "generate", noted)
    return generation_runs(shared_model, memory, QUESTIONS, TINY), said


def test_one_at_a_time_answers_as_the_batch_does(answers):
    runs, said = answers
    batch, alone = runs.values()
    assert list(runs) == ["3 at once", "one at a time"]
    batch(0)
    together = {question: text for question, text, _ in said}
    assert list(together) == QUESTIONS
    said.clear()
    alone(0)
    alone(1)
    assert [question for question, _, _ in said] == [QUESTIONS[index] for index in (0, 1, 2, 0)]
    assert all(together[question] == text for question, text, _ in said)
    assert {length for _, _, length in said} == {TINY.answer_tokens}


def test_reports_tokens_a_second_for_unequal_numbers_of_questions(shared_model):
    section = bench_generation(shared_model, TINY, 2)
    batch, alone = section["variants"]
    assert batch["rates"]["tokens"] == pytest.approx(5 * 3 / batch["median_seconds"])
    assert alone["rates"]["tokens"] == pytest.approx(2 * 3 / alone["median_seconds"])
    (found,) = section["ratios"]
    rounds = [one / other * 5 / 2 for one, other in zip(alone["seconds"], batch["seconds"], strict=True)]
    assert found["minimum"] == pytest.approx(min(rounds)) and found["needed"] == 3.0


def test_reports_the_search_and_the_bytes_of_the_vectors(shared_model):
    section = bench_search(shared_model, TINY, 1)
    names = [item["name"] for item in section["variants"]]
    assert names == ["20 passages, one question", "20 passages, 16 questions"]
    assert section["facts"] == {"bytes of 20 search vectors": 20 * 32 * 4}
    found = random_memory(20, 32).search(random_memory(20, 32).vectors, 5)[1]
    assert found[:, 0].tolist() == list(range(20))
