"""Haystack's own pipeline around a tiny model."""

import os

import pytest
from conftest import DOCUMENTS, QUESTIONS

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
haystack = pytest.importorskip("haystack")
from clara.integrations.haystack import ClaraGenerator, ClaraRetriever  # noqa: E402

OPTIONS = {"retrieval_top_k": 2, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def memory(shared_model):
    rows = [{"text": text, "place": number} for number, text in enumerate(DOCUMENTS)]
    return shared_model.build_memory(rows, show_progress=False)


def test_retriever_and_generator_in_a_pipeline(shared_model, memory):
    pipeline = haystack.Pipeline()
    pipeline.add_component("retriever", ClaraRetriever(shared_model, memory, retrieval_top_k=2))
    pipeline.add_component("generator", ClaraGenerator(shared_model, max_new_tokens=4))
    pipeline.connect("retriever.documents", "generator.documents")
    asked = {"retriever": {"query": QUESTIONS[0]}, "generator": {"query": QUESTIONS[0]}}
    out = pipeline.run(asked, include_outputs_from={"retriever"})
    hits = shared_model.retrieve(QUESTIONS[0], memory, retrieval_top_k=2)
    found = out["retriever"]["documents"]
    assert [document.id for document in found] == hits.document_ids
    assert found[0].meta["place"] == hits.indices[0] and found[0].score == pytest.approx(
        hits.scores[0].item()
    )
    assert out["generator"]["replies"] == [shared_model.generate(QUESTIONS[0], memory, **OPTIONS)]
    assert [each.id for each in out["generator"]["documents"]] == hits.document_ids
    retriever = pipeline.get_component("retriever")
    assert len(retriever.run(QUESTIONS[0], top_k=1)["documents"]) == 1


def test_the_generator_reads_a_memory_of_its_own(shared_model, memory):
    generator = ClaraGenerator(shared_model, memory, **OPTIONS)
    told = generator.run(QUESTIONS[1])
    assert told["replies"] == [shared_model.generate(QUESTIONS[1], memory, **OPTIONS)]
    with pytest.raises(ValueError, match="`documents` is empty and the generator has no `memory`"):
        ClaraGenerator(shared_model).run(QUESTIONS[1], documents=[])
