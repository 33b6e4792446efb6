"""Requests: every limit at its edge, every wrong value named, errors as JSON, and a fuzz without a model."""

import json
import logging

import pytest
import torch
from clara.hub.endpoint_requests import PARAMETERS, STATUS, UNFORESEEN, Limits, RequestError, RequestReader
from hypothesis import given, settings
from request_strategies import requests

MEMORY = object()
SMALL = {"questions": 2, "documents": 3, "document_bytes": 10, "total_bytes": 20, "question_characters": 5}


@pytest.fixture(scope="module")
def reader():
    return RequestReader({"notes": MEMORY}, **SMALL, new_tokens=8)


def ask(question="Who?", **item):
    return {"inputs": {"question": question, **(item or {"documents": ["a"]})}}


def test_a_right_request_comes_back_as_items(reader):
    documents = ["a", {"text": "b", "id": "1", "title": "t"}]
    data = {"inputs": [{"question": "Who?", "documents": documents}, {"question": "Why?", "memory": "notes"}]}
    parameters = {
        "retrieval_top_k": 1,
        "max_new_tokens": 8,
        "do_sample": True,
        "temperature": 1,
        "top_p": 0.5,
    }
    items, kept = reader.read({**data, "parameters": parameters})
    assert items == [
        {"question": "Who?", "documents": documents},
        {"question": "Why?", "memory": MEMORY},
    ]
    assert kept == parameters
    assert reader.read(ask(["Who?", "Why?"], memory="notes"))[0][0]["question"] == ["Who?", "Why?"]
    assert reader.read({**ask(), "parameters": None})[1] == {}


@pytest.mark.parametrize(
    ("data", "code", "told"),
    [
        (ask("12345"), None, ""),
        (ask("123456"), "too_large", "`inputs.question` has 6 characters, the limit is 5"),
        (ask(["a", "b"]), None, ""),
        (ask(["a", "b", "c"]), "too_large", "`inputs.question` has 3 questions, the limit is 2"),
        ({"inputs": [ask(["a", "b"])["inputs"], ask()["inputs"]]}, "too_large", "`inputs` has 3 questions"),
        ({"inputs": [ask()["inputs"]] * 3}, "too_large", "`inputs` has 3 items"),
        (ask(documents=["a"] * 3), None, ""),
        (
            ask(documents=["a"] * 10_000),
            "too_large",
            "`inputs.documents` has 10000 documents",
        ),
        ({"inputs": [ask(documents=["a"] * 2)["inputs"]] * 2}, "too_large", "`inputs` has 4 documents"),
        (ask(documents=["ü" * 5]), None, ""),
        (ask(documents=["ü" * 5 + "a"]), "too_large", r"`inputs.documents[0]` has 11 bytes, the limit is 10"),
        (ask(documents=[{"text": "a" * 9, "id": "12"}]), "too_large", "has 11 bytes"),
        (ask(documents=["a" * 10_000_000]), "too_large", "has 10000000 bytes"),
        (ask(documents=["a" * 10, "b" * 10]), None, ""),
        (ask(documents=["a" * 10, "b" * 10, "c"]), "too_large", "21 bytes of documents, the limit is 20"),
        (ask(documents=["\ud800"]), None, ""),
    ],
)
def test_limits_hold_at_their_edge(reader, data, code, told):
    if code is None:
        reader.read(data)
        return
    with pytest.raises(RequestError) as caught:
        reader.read(data)
    assert caught.value.code == code and told in str(caught.value)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "the request must be an object with ['inputs', 'parameters'], got NoneType"),
        ([], "got list"),
        ({}, "missing ['inputs']"),
        ({"inputs": ask()["inputs"], "x": 1}, "unknown [\"'x'\"]"),
        ({"inputs": {1: 2}}, "unknown ['1'], missing ['question']"),
        ({"inputs": []}, "`inputs` is empty"),
        ({"inputs": "Who?"}, "`inputs` must be an object with ['question', 'documents', 'memory'], got str"),
        ({"inputs": [ask()["inputs"], 3]}, "`inputs[1]` must be an object"),
        (ask(3), "`inputs.question` must be a text that is not empty, got 3"),
        (ask([]), "`inputs.question` is empty"),
        (ask(" \n"), "not empty, got ' \\n'"),
        (ask(["Who?", None]), "got None"),
        ({"inputs": {"question": "Who?"}}, "either `documents` or `memory`"),
        (ask(documents=["a"], memory="notes"), "either `documents` or `memory`"),
        (ask(documents="a"), "`inputs.documents` must be a list"),
        (ask(documents=[]), "at least one document"),
        (ask(documents=["a", ["b"]]), "`inputs.documents[1]` must be a text that is not empty, got list"),
        (ask(documents=[{"title": "a"}]), "missing ['text']"),
        (ask(documents=[{"text": "a", "score": 1}]), "unknown"),
        (ask(documents=[{"text": "a", "id": 7}]), "`inputs.documents[0].id` must be a text"),
        ({**ask(), "parameters": [1]}, "`parameters` must be an object"),
        ({**ask(), "parameters": {"max_new_tokens": 9}}, "a whole number from 1 to 8, got 9"),
        ({**ask(), "parameters": {"max_new_tokens": True}}, "got True"),
        ({**ask(), "parameters": {"max_new_tokens": 10**30}}, "got int"),
        ({**ask(), "parameters": {"temperature": float("nan")}}, "a number from 0.05 to 5.0, got nan"),
        ({**ask(), "parameters": {"do_sample": 1}}, "must be true or false, got 1"),
        ({**ask(), "parameters": {"stream": True}}, "unknown [\"'stream'\"]"),
        ({**ask(), "parameters": {"logits_processor": "x"}}, "logits_processor"),
    ],
)
def test_wrong_values_are_named(reader, data, told):
    with pytest.raises(RequestError) as caught:
        reader.read(data)
    assert told in str(caught.value) and caught.value.code == "invalid_request"


@pytest.mark.parametrize(
    "name", ["other", "", "../notes", "notes/", "/etc", "org/memory", None, 3, ["notes"]]
)
def test_a_memory_that_is_not_offered_is_unknown(reader, name):
    with pytest.raises(
        RequestError, match=r"one of the memories that are offered here, \['notes'\]"
    ) as caught:
        reader.read(ask(memory=name))
    assert caught.value.code == "unknown_memory"


def test_only_one_question_can_be_streamed(reader):
    assert reader.read_one(ask())[0] == [ask()["inputs"]]
    for data in (ask(["a"]), {"inputs": [ask()["inputs"]] * 2}):
        with pytest.raises(RequestError, match="one question to be streamed"):
            reader.read_one(data)
    with pytest.raises(RequestError, match="num_beams` must be 1"):
        reader.read_one({**ask(), "parameters": {"num_beams": 2}})


@pytest.mark.parametrize("limits", [{"documents": 0}, {"documents": "3"}, {"requests": True}])
def test_limits_are_positive_whole_numbers(limits):
    with pytest.raises(ValueError, match="positive whole number"):
        Limits(**limits)
    with pytest.raises(TypeError):
        RequestReader({}, tokens=3)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError("no", "too_large"), "too_large"),
        (ValueError("wrong"), "invalid_request"),
        (TypeError("wrong"), "invalid_request"),
        (KeyError("secret text"), "internal_error"),
        (UnicodeDecodeError("utf-8", b"secret text", 0, 1, "bad"), "internal_error"),
        (torch.OutOfMemoryError("secret text"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RecursionError("secret text"), "internal_error"),
    ],
)
def test_errors_become_json_and_unforeseen_ones_say_nothing_of_the_text(error, code, caplog):
    with caplog.at_level(logging.DEBUG):
        told = RequestReader.describe(error)["error"]
    assert told["code"] == code and told["status"] == STATUS[code]
    assert (told["message"] == UNFORESEEN) == (STATUS[code] >= 500)
    assert "secret text" not in caplog.text + json.dumps(told)
    assert bool(caplog.records) == (STATUS[code] >= 500)


def test_every_parameter_has_a_rule_that_can_refuse():
    for accepts, rule in PARAMETERS.values():
        assert rule and not accepts("1") and not accepts(None) and not accepts([])


@settings(max_examples=400, deadline=None, derandomize=True)
@given(requests)
def test_any_value_is_read_or_refused(data):
    reader = RequestReader({"notes": MEMORY}, new_tokens=8)
    try:
        items, parameters = reader.read(data)
    except RequestError as error:
        assert error.code in STATUS and len(str(error)) < 700
        json.dumps(RequestReader.describe(error))
        return
    assert items and all(("documents" in item) != ("memory" in item) for item in items)
    assert all(item.get("memory", MEMORY) is MEMORY for item in items)
    assert set(parameters) <= {*PARAMETERS, "max_new_tokens"}
