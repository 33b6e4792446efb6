"""The pipeline: through the registry and out of a folder alone; documents, memories, lists, errors."""

import json
import shutil

import pytest
from clara.pipeline_clara import (
    CUSTOM_PIPELINES,
    TASK,
    RetrievalAugmentedGenerationPipeline,
    register_pipeline,
)
from conftest import DOCUMENTS, QUESTIONS, ROOT
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY

SETTINGS = {"max_new_tokens": 4, "min_new_tokens": 4}


@pytest.fixture(scope="module")
def rag(shared_model):
    register_pipeline()
    return pipeline(TASK, model=shared_model)


@pytest.fixture(scope="module")
def memory(shared_model):
    return shared_model.build_memory(DOCUMENTS, show_progress=False)


def expected(model, questions, memory, k=2, texts=DOCUMENTS):
    out = model.generate(questions, memory, k, return_dict_in_generate=True, **SETTINGS)
    return [
        {
            "answer": answer,
            "documents": [
                {"id": document_id, "score": pytest.approx(score, abs=1e-5), "text": texts[index]}
                for document_id, index, score in zip(*row, strict=True)
            ],
        }
        for answer, *row in zip(out.answers, out.document_ids, out.indices, out.scores.tolist(), strict=True)
    ]


def test_one_question_gives_answer_and_documents_with_scores(rag, shared_model):
    found = rag(question=QUESTIONS[0], documents=DOCUMENTS, retrieval_top_k=2, **SETTINGS)
    assert found == expected(shared_model, QUESTIONS[:1], DOCUMENTS)[0]
    scores = [document["score"] for document in found["documents"]]
    assert scores == sorted(scores, reverse=True) and json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_lists_come_back_in_order_whatever_the_batch(rag, shared_model, memory, batch_size):
    found = rag(QUESTIONS, memory=memory, batch_size=batch_size, retrieval_top_k=2, **SETTINGS)
    assert found == expected(shared_model, QUESTIONS, memory)


def test_shared_documents_are_compressed_once(rag, shared_model, monkeypatch):
    calls = []
    build = type(shared_model).build_memory
    monkeypatch.setattr(
        type(shared_model), "build_memory", lambda self, *a, **k: calls.append(a) or build(self, *a, **k)
    )
    rag(QUESTIONS, DOCUMENTS, batch_size=1, retrieval_top_k=1, **SETTINGS)
    assert len(calls) == 1


def test_each_question_may_have_documents_of_its_own(rag, shared_model):
    pools = [DOCUMENTS[:3], DOCUMENTS[3:5], [{"text": "Titan is far.", "id": "far", "title": "Titan"}]]
    found = rag(QUESTIONS, pools, **SETTINGS)
    assert [len(row["documents"]) for row in found] == [3, 2, 1]
    assert found[2]["documents"][0]["id"] == "far"
    assert found[2]["documents"][0]["text"] == "Titan\nTitan is far."
    assert found == rag(
        [{"question": q, "documents": p} for q, p in zip(QUESTIONS, pools, strict=True)], **SETTINGS
    )
    alone = rag({"question": QUESTIONS[1], "documents": pools[1]}, **SETTINGS)
    assert alone["answer"] == found[1]["answer"]
    assert found[1]["answer"] == shared_model.generate(QUESTIONS[1], pools[1], **SETTINGS)


def test_a_stored_memory_is_named_by_its_folder(rag, memory, tmp_path):
    memory.save_pretrained(tmp_path / "store")
    for named in (tmp_path / "store", str(tmp_path / "store")):
        found = rag(question=QUESTIONS[0], memory=named, retrieval_top_k=2, **SETTINGS)
        wanted = rag(question=QUESTIONS[0], memory=memory, retrieval_top_k=2, **SETTINGS)
        assert [d["id"] for d in found["documents"]] == [d["id"] for d in wanted["documents"]]
        assert found["answer"] == wanted["answer"]
    same = [{"question": question, "memory": memory} for question in QUESTIONS]
    for one, other in zip(rag(same, **SETTINGS), rag(QUESTIONS, memory=memory, **SETTINGS), strict=True):
        assert one["answer"] == other["answer"]
        for mine, theirs in zip(one["documents"], other["documents"], strict=True):
            assert {**mine, "score": 0} == {**theirs, "score": 0}
            assert mine["score"] == pytest.approx(theirs["score"], abs=1e-6)  # searched alone or together


def test_a_long_document_shows_the_passage_that_was_chosen(rag):
    long = {"id": "long", "text": "word " * 100}
    document = rag(question="word?", documents=long, retrieval_top_k=1, **SETTINGS)["documents"][0]
    assert document["id"].startswith("long#") and 0 < len(document["text"]) < len(long["text"])


def test_settings_of_the_constructor_hold_unless_a_call_says_otherwise(shared_model, memory):
    rag = RetrievalAugmentedGenerationPipeline(
        model=shared_model, batch_size=2, retrieval_top_k=1, **SETTINGS
    )
    assert rag._batch_size == 2
    assert len(rag(QUESTIONS[0], memory=memory)["documents"]) == 1
    assert len(rag(QUESTIONS[0], memory=memory, retrieval_top_k=3)["documents"]) == 3
    assert len(rag(QUESTIONS[0], memory=memory)["documents"]) == 1


def test_several_sequences_give_several_answers(rag, memory):
    found = rag(QUESTIONS[0], memory=memory, num_beams=2, num_return_sequences=2, **SETTINGS)
    assert len(found["answer"]) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"question": "Who?"}, ValueError, "either `documents` or `memory`"),
        ({"question": "Who?", "documents": ["a"], "memory": "b"}, ValueError, "either `documents` or"),
        ({"question": "Who?", "documents": []}, ValueError, "`documents` is empty"),
        ({"question": "", "documents": ["a"]}, ValueError, r"`questions\[0\]` is empty"),
        ({"question": [], "documents": ["a"]}, None, ""),
        ({"question": ["Who?", 3], "documents": ["a"]}, TypeError, r"`questions\[1\]` must be a string"),
        ({"question": "Who?", "documents": ["a", 3]}, TypeError, r"`documents\[1\]` must be a string"),
        ({"question": ["Who?"], "documents": [["a"], ["b"]]}, ValueError, "2 lists for 1 questions"),
        ({"question": {"documents": ["a"]}}, ValueError, r"`question\[0\]` must have a `question`"),
        ({"question": {"question": "Who?", "context": "a"}}, ValueError, "context"),
        ({"question": {"question": "Who?", "documents": ["a"]}, "documents": ["b"]}, ValueError, "once"),
        ({"question": [{"question": "Who?", "documents": ["a"]}, {"question": "Who?"}]}, ValueError, "own"),
        ({"question": "Who?", "documents": ["a"], "retrieval_top_k": 2}, ValueError, "between 1 and the 1"),
        ({"question": "Who?", "documents": ["a"], "max_tokens": 2}, ValueError, "max_tokens"),
        ({"question": "Who?", "memory": "no/memory"}, FileNotFoundError, "neither a folder nor"),
    ],
)
def test_bad_input_is_named(rag, arguments, error, told):
    if error is None:
        assert rag(**arguments) == []
        return
    with pytest.raises(error, match=told):
        rag(**arguments)


def test_a_memory_of_another_model_is_refused(rag, base, tmp_path):
    from conftest import make_model

    other = make_model(base, compression_rate=32)
    other.build_memory(DOCUMENTS, show_progress=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="another compressor or base"):
        rag(question=QUESTIONS[0], memory=tmp_path)


def test_registering_twice_says_nothing(caplog):
    register_pipeline()
    register_pipeline()
    assert not caplog.records
    assert PIPELINE_REGISTRY.check_task(TASK)[1]["impl"] is RetrievalAugmentedGenerationPipeline


def test_a_folder_alone_names_its_task(checkpoint, shared_model, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "some-model")
    rag = pipeline(model=str(folder), trust_remote_code=True)
    assert rag.task == TASK and type(rag).__module__.startswith("transformers_modules.")
    found = rag(question=QUESTIONS[0], documents=DOCUMENTS, retrieval_top_k=2, **SETTINGS)
    assert found == expected(shared_model, QUESTIONS[:1], DOCUMENTS)[0]
    with pytest.raises(ValueError, match="trust_remote_code"):
        pipeline(TASK, model=str(folder), trust_remote_code=False)
    rag.save_pretrained(tmp_path / "again")
    again = pipeline(model=str(tmp_path / "again"), trust_remote_code=True)
    assert again(question=QUESTIONS[0], documents=DOCUMENTS, retrieval_top_k=2, **SETTINGS) == found


def test_the_checkout_names_the_pipeline_too():
    config = json.loads((ROOT / "config.json").read_text(encoding="utf-8"))
    assert config["custom_pipelines"] == CUSTOM_PIPELINES
