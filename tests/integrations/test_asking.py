"""What integrations get: the model's own passages and answers, as plain mappings."""

import pytest
from clara.integrations.asking import answer, find
from conftest import DOCUMENTS, QUESTIONS


@pytest.fixture(scope="module")
def memory(shared_model):
    rows = [{"text": text, "place": number} for number, text in enumerate(DOCUMENTS)]
    return shared_model.build_memory(rows, show_progress=False)


def test_passages_are_those_of_the_model_with_their_facts(shared_model, memory):
    found = find(shared_model, memory, QUESTIONS, retrieval_top_k=2)
    hits = shared_model.retrieve(QUESTIONS, memory, retrieval_top_k=2)
    assert [[passage["id"] for passage in row] for row in found] == hits.document_ids
    assert [[passage["score"] for passage in row] for row in found] == hits.scores.tolist()
    first = found[0][0]
    assert first["text"] == DOCUMENTS[hits.indices[0][0]] and first["document_id"] == first["id"]
    assert first["metadata"] == {"place": hits.indices[0][0]}


def test_answers_come_with_what_they_were_read_from(shared_model, memory):
    options = {"retrieval_top_k": 2, "max_new_tokens": 4}
    told = answer(shared_model, memory, QUESTIONS, **options)
    assert [text for text, _ in told] == shared_model.generate(QUESTIONS, memory, **options)
    assert [passages for _, passages in told] == find(shared_model, memory, QUESTIONS, retrieval_top_k=2)


def test_a_filter_leaves_fewer(shared_model, memory):
    (passages,) = find(shared_model, memory, QUESTIONS[:1], retrieval_top_k=3, where={"place": {"<": 2}})
    assert sorted(passage["metadata"]["place"] for passage in passages) == [0, 1]
