"""A batch and single questions give the same answers; every answer has the asked length."""

import pytest
from clara.evaluation.speed.generation import bench_generation, generation_runs
from clara.evaluation.speed.search import bench_search, random_memory, search_runs
from conftest import DOCUMENTS, QUESTIONS
from speed_helpers import TINY


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
    batch, alone = section.lines
    assert batch.rates["tokens"] == pytest.approx(5 * 3 / batch.median)
    assert alone.rates["tokens"] == pytest.approx(2 * 3 / alone.median)
    (found,) = section.ratios
    rounds = [one / other * 5 / 2 for one, other in zip(alone.seconds, batch.seconds, strict=True)]
    assert found.minimum == pytest.approx(min(rounds)) and found.needed == 3.0


def test_search_finds_the_vectors_that_are_the_queries(shared_model):
    memory = random_memory(shared_model, 20)
    assert memory.vectors.shape == (20, 32)
    found = []
    memory.search = lambda query, k: found.append(type(memory).search(memory, query, k))
    for run in search_runs(memory).values():
        run(0)
    assert [indices[:, 0].tolist() for _, indices in found] == [[0], list(range(16))]


def test_reports_the_bytes_of_the_vectors(shared_model):
    section = bench_search(shared_model, TINY, 1)
    assert [item.name for item in section.lines] == ["20 passages, one question", "20 passages, 16 questions"]
    assert section.facts == {"bytes of 20 search vectors": 20 * 32 * 4}
