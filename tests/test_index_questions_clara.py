"""What an index is learnt from and tested with: real questions, or sentences of the corpus."""

import pytest
import torch
from clara.index_questions_clara import corpus_sentences, learned_and_tests
from clara.memory_clara import CorpusMemory
from conftest import DOCUMENTS

TEXTS = [f"Sentence one of document {row}. Sentence two of document {row}." for row in range(40)]


@pytest.fixture
def memory():
    return CorpusMemory(torch.ones(40, 1, 4), TEXTS)


def test_one_sentence_of_each_passage_drawn(memory):
    found = corpus_sentences(memory, 10)
    assert len(found) == 10 == len({text.rpartition(" ")[2] for text in found})
    assert {text.split()[1] for text in corpus_sentences(memory, 40)} == {"one", "two"}
    assert found == corpus_sentences(memory, 10) != corpus_sentences(memory, 10, seed=1)


def test_without_questions_an_eighth_of_the_sentences_are_tests(memory):
    learned, tests = learned_and_tests(memory)
    assert (len(learned), len(tests)) == (35, 5) and not set(learned) & set(tests)


def test_half_of_the_questions_are_tests(memory):
    learned, tests = learned_and_tests(memory, ["A?", "B?", "C?", "D?", "E?"])
    assert tests == ["A?", "C?", "E?"]
    assert learned[:40] == corpus_sentences(memory, 40) and learned[40:] == ["B?", "D?"]


def test_of_many_questions_512_are_tests(memory):
    asked = [f"Question {number}?" for number in range(1200)]
    learned, tests = learned_and_tests(memory, asked)
    assert len(tests) == 512 and sorted(tests + learned[40:]) == sorted(asked)


def test_refuses_too_few(memory):
    with pytest.raises(ValueError, match="`questions` must be at least 4, got 3: give more, or None"):
        learned_and_tests(memory, ["A?", "B?", "C?"])
    with pytest.raises(ValueError, match=r"`questions\[1\]` is empty"):
        learned_and_tests(memory, ["A?", " ", "C?", "D?"])


def test_a_corpus_of_one_passage(shared_model):
    memory = shared_model.build_memory(DOCUMENTS[:1], show_progress=False)
    learned, tests = shared_model.index_questions(memory)
    assert len(learned) == 1 and torch.equal(tests, learned.repeat(2, 1, 1))
    shared_model.build_index(memory)
    assert memory.index.recall["mean"] == 1.0
