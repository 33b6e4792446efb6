"""LlamaIndex' own classes around a tiny model."""

import pytest
from conftest import DOCUMENTS, QUESTIONS

pytest.importorskip("llama_index.core")
from clara.integrations.llama_index import ClaraQueryEngine, ClaraRetriever  # noqa: E402


@pytest.fixture(scope="module")
def memory(shared_model):
    rows = [{"text": text, "place": number} for number, text in enumerate(DOCUMENTS)]
    return shared_model.build_memory(rows, show_progress=False)


def test_the_retriever_gives_scored_nodes(shared_model, memory):
    nodes = ClaraRetriever(shared_model, memory, retrieval_top_k=2).retrieve(QUESTIONS[0])
    hits = shared_model.retrieve(QUESTIONS[0], memory, retrieval_top_k=2)
    assert [node.node_id for node in nodes] == hits.document_ids
    assert [node.score for node in nodes] == pytest.approx(hits.scores.tolist())
    assert nodes[0].metadata["place"] == hits.indices[0] and nodes[0].text == DOCUMENTS[hits.indices[0]]


def test_the_query_engine_answers_with_its_sources(shared_model, memory):
    options = {"retrieval_top_k": 2, "max_new_tokens": 4}
    engine = ClaraQueryEngine(model=shared_model, memory=memory, options=options)
    response = engine.query(QUESTIONS[0])
    assert response.response == shared_model.generate(QUESTIONS[0], memory, **options)
    expected = ClaraRetriever(shared_model, memory, retrieval_top_k=2).retrieve(QUESTIONS[0])
    assert [node.node_id for node in response.source_nodes] == [node.node_id for node in expected]
