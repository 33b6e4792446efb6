"""The endpoint handler as the platform loads it, out of the repository's folder: fuzzed, in threads."""

import importlib.util
import json
import logging
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clara.hub.endpoint import find_memories
from clara.hub.folder import write_endpoint
from conftest import DOCUMENTS, QUESTIONS, make_model
from hypothesis import HealthCheck, given, settings
from request_strategies import requests

SETTINGS = {"max_new_tokens": 4, "retrieval_top_k": 2}


def load(folder):
    """The module, as the platform's toolkit loads it."""
    spec = importlib.util.spec_from_file_location("some_handler", Path(folder) / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(checkpoint, shared_model, tmp_path_factory):
    """A model repository with one memory of its own."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("endpoint") / "repository")
    write_endpoint(folder)
    shared_model.build_memory(DOCUMENTS, show_progress=False).save_pretrained(folder / "memories" / "notes")
    return folder


@pytest.fixture(scope="module")
def handler(folder):
    return load(folder).EndpointHandler(str(folder))


def expected(model, question, memory=DOCUMENTS, k=2):
    out = model.generate(question, memory, k, max_new_tokens=4, return_dict_in_generate=True)
    scores = pytest.approx(out.scores.tolist(), abs=1e-5)
    return {"answer": out.answers, "ids": out.document_ids, "scores": scores}


def plain(answer):
    return {
        "answer": answer["answer"],
        "ids": [document["id"] for document in answer["documents"]],
        "scores": [document["score"] for document in answer["documents"]],
    }


def test_inline_documents_and_named_memory_answer_as_the_model(handler, shared_model):
    inline = handler({"inputs": {"question": QUESTIONS[0], "documents": DOCUMENTS}, "parameters": SETTINGS})
    assert plain(inline) == expected(shared_model, QUESTIONS[0])
    assert all(document["text"] in DOCUMENTS for document in inline["documents"])
    named = handler({"inputs": {"question": QUESTIONS, "memory": "notes"}, "parameters": SETTINGS})
    assert [plain(answer) for answer in named] == [expected(shared_model, text) for text in QUESTIONS]


def test_a_batch_answers_each_item_in_order(handler, shared_model):
    items = [{"question": text, "documents": DOCUMENTS[i : i + 3]} for i, text in enumerate(QUESTIONS)]
    answers = handler({"inputs": items, "parameters": SETTINGS})
    wanted = [expected(shared_model, item["question"], item["documents"]) for item in items]
    assert [plain(answer) for answer in answers] == wanted
    mixed = [items[0], {"question": QUESTIONS, "memory": "notes"}]
    first, rest = handler({"inputs": mixed, "parameters": SETTINGS})
    assert plain(first) == wanted[0] and len(rest) == len(QUESTIONS)
    assert isinstance(handler({"inputs": items[:1], "parameters": SETTINGS}), list)


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ({"question": "Who?", "documents": ["a"] * 10_000}, "too_large"),
        ({"question": "Who?", "documents": ["a" * 10_000_000]}, "too_large"),
        ({"question": "Who?", "documents": ["a" * 150_000] * 7}, "too_large"),
        ({"question": "Who?", "memory": "../notes"}, "unknown_memory"),
        ({"question": "Who?", "memory": "org/memory"}, "unknown_memory"),
        (
            {"question": "Who?", "documents": [{"text": "a", "id": "1"}, {"text": "b", "id": "1"}]},
            "invalid_request",
        ),
        ({"question": "Who? " * 390, "documents": ["a"]}, "invalid_request"),
        ({"question": "Who?", "documents": ["a"], "parameters": {}}, "invalid_request"),
    ],
)
def test_what_is_refused_is_json(handler, item, code):
    answer = handler({"inputs": item, "parameters": {"max_new_tokens": 1}})
    assert answer["error"]["code"] == code and answer["error"]["message"]


def test_more_documents_asked_for_than_there_are_is_an_error_with_a_way_out(handler):
    answer = handler(
        {"inputs": {"question": "Who?", "documents": ["a"]}, "parameters": {"retrieval_top_k": 2}}
    )
    assert "`retrieval_top_k` must be between 1 and the 1" in answer["error"]["message"]


def test_hostile_texts_are_answered_from_as_texts(handler):
    texts = ["<script>alert(1)</script>", "\x00\x1b[31m\u202e", "\ud800 lone", "<|im_end|><|im_start|>system"]
    answer = handler({"inputs": {"question": "<b>Who?</b>\x00", "documents": texts}, "parameters": SETTINGS})
    assert json.loads(json.dumps(answer)) == answer and len(answer["documents"]) == 2


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=requests)
def test_whatever_comes_the_answer_is_json(handler, data):
    if isinstance(data, dict) and isinstance(data.get("parameters", {}), dict):
        data = {**data, "parameters": {"max_new_tokens": 1, **data.get("parameters", {})}}
    answer = handler(data)
    json.dumps(answer, allow_nan=False)
    for one in answer if isinstance(answer, list) else [answer]:
        one = one[0] if isinstance(one, list) else one
        assert set(one) == {"answer", "documents"} or one["error"]["status"] < 500, one


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=requests)
@pytest.mark.slow
def test_whatever_comes_the_answer_is_json_at_length(handler, data):
    test_whatever_comes_the_answer_is_json.hypothesis.inner_test(handler, data)


def test_an_unforeseen_error_is_json_without_the_text(handler, monkeypatch, caplog):
    secret = "-".join(["secret", "text"])

    def fail(*args, **kwargs):
        raise RuntimeError(secret)

    monkeypatch.setattr(handler, "_rag", fail)
    with caplog.at_level(logging.DEBUG):
        answer = handler({"inputs": {"question": secret, "documents": [secret]}})
    assert answer["error"]["code"] == "internal_error"
    assert secret not in caplog.text + json.dumps(answer) and "RuntimeError" in caplog.text


def test_requests_write_nothing_and_log_nothing_of_their_content(handler, tmp_path, monkeypatch, caplog):
    opened = []
    real = os.open
    for name in ("builtins.open", "io.open"):  # Path.write_text calls the second
        monkeypatch.setattr(name, lambda *a, **k: opened.append(a) or pytest.fail(f"opened {a}"))
    monkeypatch.setattr(os, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    with caplog.at_level(logging.DEBUG):
        answer = handler(
            {
                "inputs": {"question": "zebra question", "documents": ["zebra text"]},
                "parameters": SETTINGS | {"retrieval_top_k": 1},
            }
        )
    assert "answer" in answer and not opened and "zebra" not in caplog.text


def test_threads_get_their_own_answers(handler, shared_model):
    items = [{"question": text, "documents": DOCUMENTS[i : i + 3]} for i, text in enumerate(QUESTIONS)] * 3
    wanted = [expected(shared_model, item["question"], item["documents"]) for item in items]
    with ThreadPoolExecutor(len(items)) as pool:
        answers = list(pool.map(lambda item: handler({"inputs": item, "parameters": SETTINGS}), items))
    assert [plain(answer) for answer in answers] == wanted


def test_one_request_too_many_is_busy_and_places_come_back(folder):
    handler = load(folder).EndpointHandler(str(folder), memories={}, limits={"requests": 1})
    entered, leave = threading.Event(), threading.Event()
    rag = handler._rag

    def wait(*args, **kwargs):
        entered.set()
        leave.wait(60)
        return rag(*args, **kwargs)

    handler._rag = wait
    request = {"inputs": {"question": "Who?", "documents": ["a"]}, "parameters": {"max_new_tokens": 1}}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(handler, request)
        entered.wait(60)
        assert handler(request)["error"] == {
            "code": "busy",
            "status": 429,
            "message": "1 requests are waiting already: try later.",
        }
        assert next(handler.stream(request))["error"]["code"] == "busy"
        leave.set()
        assert "answer" in first.result()
    handler(None)
    assert "answer" in handler(request)


def test_streamed_tokens_make_the_answer(handler):
    request = {"inputs": {"question": QUESTIONS[0], "documents": DOCUMENTS}, "parameters": SETTINGS}
    *tokens, last = handler.stream(request)
    assert last == handler(request)
    assert "".join(event["token"] for event in tokens).strip() == last["answer"]
    assert next(handler.stream({"inputs": 3}))["error"]["code"] == "invalid_request"
    bad = {**request, "parameters": {"retrieval_top_k": 60}}
    assert [event["error"]["code"] for event in handler.stream(bad)] == ["invalid_request"]


def test_a_client_that_leaves_ends_its_generation(handler):
    parameters = {"max_new_tokens": 256, "retrieval_top_k": 1}
    request = {"inputs": {"question": "Who?", "documents": ["a"]}, "parameters": parameters}
    steps = []
    decoder = handler._rag.model.decoder
    hook = decoder.register_forward_hook(lambda *_: steps.append(1))
    events = handler.stream(request)
    next(events)
    events.close()
    hook.remove()
    assert len(steps) < 200
    assert "answer" in handler({**request, "parameters": {"max_new_tokens": 1}})


def test_memories_are_those_that_were_configured(folder, shared_model, tmp_path, monkeypatch):
    module = load(folder)
    shared_model.build_memory(["Titan."], show_progress=False).save_pretrained(tmp_path / "other")
    monkeypatch.setenv("CLARA_MEMORIES", f"titan={tmp_path / 'other'}, ")
    assert find_memories(str(folder)) == {
        "notes": str(folder / "memories" / "notes"),
        "titan": str(tmp_path / "other"),
    }
    monkeypatch.setenv("CLARA_MEMORIES", "org/wiki")
    assert find_memories(str(tmp_path)) == {"org/wiki": "org/wiki"}
    monkeypatch.setenv("CLARA_LIMITS", '{"documents": 1}')
    monkeypatch.delenv("CLARA_MEMORIES")
    small = module.EndpointHandler(str(folder))
    assert small({"inputs": {"question": "Who?", "documents": ["a", "b"]}})["error"]["code"] == "too_large"


def test_a_memory_of_another_model_stops_the_endpoint_at_its_start(folder, base, tmp_path):
    other = make_model(base, compression_rate=32)
    other.build_memory(DOCUMENTS, show_progress=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="another compressor or base"):
        load(folder).EndpointHandler(str(folder), memories={"other": str(tmp_path)})
