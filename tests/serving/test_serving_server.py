"""The OpenAI-compatible server: answers, streams, errors, limits, clients that leave."""

import json
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import numpy as np
import openai
import pytest
import torch
from clara.adapters_clara import worn_adapters
from clara.integrations.encoder import ClaraEncoder
from clara.serving.engine import Engine
from clara.serving.history import standalone_question
from clara.serving.server import make_server
from conftest import DOCUMENTS, QUESTIONS, make_model, make_tokenizer
from serving_helpers import ask, make_app, serving
from transformers import BloomConfig, BloomForCausalLM

pytest.importorskip("prometheus_client")
LONG = {"max_tokens": 400, "min_tokens": 400}


@pytest.fixture(scope="module")
def app(shared_model):
    return make_app(shared_model, max_body_bytes=20_000)


@pytest.fixture(scope="module")
def url(app):
    with serving(app) as address:
        yield address


def wait_until(condition):
    end = time.time() + 60
    while not condition():
        assert time.time() < end
        time.sleep(0.02)


def error_of(response, status):
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    return response.json()["error"]


def test_the_key_is_asked_for_where_there_is_one(shared_model):
    with serving(make_app(shared_model, api_key="s3cret")) as url:
        assert error_of(ask(url), 401)["code"] == "invalid_api_key"
        assert error_of(httpx.get(f"{url}/v1/models"), 401)["type"] == "authentication_error"
        assert error_of(httpx.get(f"{url}/metrics", headers={"authorization": "Bearer s3cre"}), 401)
        assert httpx.get(f"{url}/health").status_code == 200
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="s3cret", max_retries=0)
        assert len(list(client.models.list())) == 3
        with pytest.raises(openai.AuthenticationError, match="Authorization: Bearer KEY"):
            openai.OpenAI(base_url=f"{url}/v1", api_key="other", max_retries=0).models.list()


def test_other_names_of_the_host_and_pages_of_others_are_refused(shared_model):
    origin = {"origin": "https://evil.example"}
    with serving(make_app(shared_model, hosts=["127.0.0.1"])) as url:
        assert httpx.get(f"{url}/v1/models").status_code == 200
        error = error_of(httpx.get(f"{url}/v1/models", headers={"host": "evil.example:80"}), 400)
        assert error["code"] == "unknown_host" and "evil.example" in error["message"]
        answer = httpx.get(f"{url}/v1/models", headers=origin)
        assert "access-control-allow-origin" not in answer.headers
    with serving(make_app(shared_model, origins=["https://evil.example"])) as url:
        answer = httpx.get(f"{url}/v1/models", headers={**origin, "host": "any.example"})
        assert answer.headers["access-control-allow-origin"] == "https://evil.example"


def test_one_guilty_request_harms_no_other(url):
    plain = ask(url, max_tokens=4).json()["choices"]
    assert ask(url, max_tokens=4, temperature=1e-40).json()["choices"] == plain
    assert ask(url, max_tokens=4).json()["choices"] == plain
    assert httpx.get(f"{url}/health").json()["status"] == "ok"


def test_filters_and_words_choose_the_passages(shared_model):
    rows = [{"text": text, "year": 1800 + number} for number, text in enumerate(DOCUMENTS)]
    memory = shared_model.build_memory(rows, show_progress=False)
    with serving(make_server(Engine(shared_model), {"sights": memory})) as url:
        fields = {"max_tokens": 2, "retrieval_top_k": 2}
        found = ask(url, where={"year": {">=": 1804}}, **fields).json()["clara"]["documents"]
        assert sorted(row["document_id"] for row in found) == ["4", "5"]
        pytest.importorskip("bm25s")
        found = ask(url, "Ada Lovelace", hybrid=1, **fields).json()["clara"]["documents"]
        assert found[0]["document_id"] == "5"
        error = error_of(ask(url, where={"year": 3}, **fields), 400)
        assert error["param"] == "where" and "lets no passage through" in error["message"]
        assert error_of(ask(url, where={"year": {"~": 3}}, **fields), 400)["param"] == "where"
        deep = {"year": 1}
        for _ in range(9):
            deep = {"and": [deep]}
        assert error_of(ask(url, where=deep, **fields), 422)["param"] == "where"
        assert error_of(ask(url, where="year > 3", **fields), 422)["param"] == "where"
        assert error_of(ask(url, hybrid=1.5, **fields), 422)


def test_memories_are_read_together_or_each_alone(url, shared_model, monkeypatch):
    memory = shared_model.build_memory(DOCUMENTS, show_progress=False)
    answers = {}
    for reading in ("together", "each"):
        answers[reading] = shared_model.generate(
            "Who found Titan?", memory, 3, reading=reading, max_new_tokens=4
        )
        body = ask(url, reading=reading, max_tokens=4, retrieval_top_k=3).json()
        assert body["choices"][0]["message"]["content"] == answers[reading]
        assert len(body["clara"]["documents"]) == 3

    def said(response):
        return response.json()["choices"][0]["message"]["content"]

    assert answers["together"] != answers["each"]
    plain = {"max_tokens": 4, "retrieval_top_k": 3}
    assert said(ask(url, **plain)) == answers["together"]
    monkeypatch.setattr(shared_model.config, "reading", "each")
    assert said(ask(url, **plain)) == answers["each"]
    drawn = {"temperature": 1.0, "top_p": 1e-6}  # greedy but for its name: only "together" can sample
    assert said(ask(url, **plain, **drawn)) == answers["together"]
    assert ask(url, max_tokens=4, retrieval_top_k=5).status_code == 200  # more than are answered at once
    assert error_of(ask(url, reading="all"), 422)["param"] == "reading"
    assert error_of(ask(url, reading="each", temperature=1), 400)["param"] == "temperature"
    error = error_of(ask(url, reading="each", retrieval_top_k=5), 400)
    assert error["param"] == "retrieval_top_k" and "at most 4" in error["message"]
    error = error_of(ask(url, reading="each", where={"id": "none"}, retrieval_top_k=2), 400)
    assert "lets no passage through" in error["message"]


def test_the_likely_sentence_of_a_source(url):
    source = ask(url, QUESTIONS[0], max_tokens=2, retrieval_top_k=6).json()["clara"]["documents"]
    bridge = next(row for row in source if row["id"] == "0")
    start, end = bridge["span"]
    sentence = bridge["text"][start:end]
    assert ask(url, max_tokens=2).json()["clara"]["supported"] in (True, False)
    assert sentence in ("The Forth Bridge is a railway bridge in Scotland.", "It was opened in 1890.")


@pytest.mark.parametrize("kind", ["document", "query"])
def test_search_vectors_through_openais_client(url, shared_model, kind):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    encode = ClaraEncoder(shared_model).encode
    options = {"model": "sights", "extra_body": {"input_type": kind}}
    got = client.embeddings.create(input=DOCUMENTS[:2], **options)  # asks for base64
    expected = encode(DOCUMENTS[:2], prompt_name=kind)
    assert np.allclose([row.embedding for row in got.data], expected, atol=1e-6)
    assert [row.index for row in got.data] == [0, 1] and got.usage.prompt_tokens > 10
    one = client.embeddings.create(input="Titan", encoding_format="float", dimensions=32, **options)
    assert np.allclose(one.data[0].embedding, encode("Titan", prompt_name=kind), atol=1e-6)
    for bad in ({"input": [" "]}, {"input": "Titan", "dimensions": 8}):
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(**{**options, **bad})
    for bad in ({"input": [[1, 2]]}, {"input": []}):
        with pytest.raises(openai.UnprocessableEntityError):
            client.embeddings.create(**{**options, **bad})
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="two", input="Titan")


def test_the_models_name_is_not_another_memorys(shared_model):
    make_app(shared_model, model_name="sights")  # the first memory, for which it stands anyway
    with pytest.raises(ValueError, match="`model_name` 'one' stands for the first memory"):
        make_app(shared_model, model_name="one")


def test_an_answer_with_its_sources(url, shared_model):
    response = ask(url, QUESTIONS[1], max_tokens=9, retrieval_top_k=2)
    assert response.status_code == 200
    body = response.json()
    out = shared_model.generate(
        QUESTIONS[1], DOCUMENTS, retrieval_top_k=2, max_new_tokens=9, return_dict_in_generate=True
    )
    assert body["object"] == "chat.completion" and body["model"] == "sights"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": out.answers}
    documents = body["clara"]["documents"]
    assert [row["id"] for row in documents] == out.document_ids
    assert [row["score"] for row in documents] == pytest.approx(out.scores.tolist(), abs=1e-5)
    assert [row["text"] for row in documents] == [DOCUMENTS[index] for index in out.indices]
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["completion_tokens"] <= 9


def test_openais_own_client_reads_answer_and_stream(url):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    whole = client.chat.completions.create(model="sights", messages=messages, max_tokens=12)
    chunks = list(
        client.chat.completions.create(
            model="sights",
            messages=messages,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].clara == whole.clara
    unknown = [{**row, "span": None} for row in whole.clara["documents"]]
    assert chunks[0].clara["documents"] == unknown
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert {"clara", "sights", "one"} == {model.id for model in client.models.list()}
    assert client.models.retrieve("one").passages == 1
    assert client.models.retrieve("clara") == client.models.list().data[0]
    with pytest.raises(openai.NotFoundError, match="'two' is not mounted here"):
        client.models.retrieve("two")


NEUTRAL = {
    "n": 1,
    "tools": [],
    "tool_choice": "none",
    "functions": [],
    "function_call": "none",
    "parallel_tool_calls": True,
    "response_format": {"type": "text"},
    "logit_bias": {},
    "logprobs": False,
    "top_logprobs": 0,
    "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "modalities": ["text"],
    "store": False,
    "reasoning_effort": "none",
    "verbosity": "medium",
    "service_tier": "auto",
    "user": "me",
    "metadata": {"run": "7"},
    "stream": False,
    "min_tokens": 0,
}


def test_fields_in_the_value_that_changes_nothing_are_taken(url):
    plain = ask(url, max_tokens=4).json()["choices"]
    only_null = ["stream_options", "audio", "prediction", "web_search_options", "seed", "stop", "top_p"]
    for fields in (NEUTRAL, dict.fromkeys([*NEUTRAL, *only_null])):
        response = ask(url, max_tokens=4, **fields)
        assert response.status_code == 200, response.text
        assert response.json()["choices"] == plain
    history = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": "Who found Titan?"},
    ]
    assert ask(url, messages=history, max_tokens=4).json()["choices"] == plain
    options = {"include_usage": False, "include_obfuscation": False}
    assert ask(url, max_tokens=2, stream=True, stream_options=options).status_code == 200


def test_fields_that_would_change_the_answer_say_the_way_out(url):
    error = error_of(ask(url, tools=[{"type": "function"}]), 422)
    assert "leave it out" in error["message"]


def test_names_of_memories_may_hold_slashes(shared_model):
    memory = shared_model.build_memory(DOCUMENTS[:1], show_progress=False)
    with serving(make_server(Engine(shared_model), {"org/papers": memory})) as url:
        assert httpx.get(f"{url}/v1/models/org/papers").json()["id"] == "org/papers"
        assert httpx.get(f"{url}/v1/models/org%2Fpapers").json()["id"] == "org/papers"


def tiny_bloom(folder):
    config = BloomConfig(vocab_size=512, hidden_size=32, n_layer=1, n_head=4, eos_token_id=2, pad_token_id=0)
    BloomForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_base_without_a_limit_of_positions_is_served(tmp_path):
    model = make_model(tiny_bloom(tmp_path))
    with serving(
        make_server(Engine(model), {"m": model.build_memory(DOCUMENTS, show_progress=False)})
    ) as url:
        assert ask(url, model="m", max_tokens=2).status_code == 200


def test_a_stream_ends_as_openais_do(url):
    body = {"model": "clara", "messages": [{"role": "user", "content": "Who?"}], "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0][6:])["object"] == "chat.completion.chunk"


def test_memories_are_picked_by_model_or_by_field(url):
    default = ask(url, model="clara", max_tokens=2).json()["clara"]
    assert default["memory"] == "sights"
    assert ask(url, model="one", max_tokens=2).json()["clara"]["memory"] == "one"
    named = ask(url, model="clara", memory="one", max_tokens=2).json()["clara"]
    assert named["memory"] == "one" and [row["id"] for row in named["documents"]] == ["0"]
    assert error_of(ask(url, model="nothing"), 404)["code"] == "model_not_found"
    assert error_of(ask(url, memory="../../etc"), 404)["param"] == "memory"


def test_parts_are_joined_and_earlier_turns_counted(url):
    parts = [{"type": "text", "text": "Who found"}, {"type": "text", "text": "Titan?"}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    body = ask(url, messages=messages, max_tokens=2).json()
    assert body["clara"]["messages_not_read"] == 1 and body["clara"]["question"] == "Who found\nTitan?"


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the largest moon of Saturn?"},
    {"role": "assistant", "content": "Titan."},
    {"role": "user", "content": "Who found it?"},
]


def test_the_base_rewrites_a_question_that_leans_on_earlier_turns(shared_model, monkeypatch):
    read, write = [], shared_model.decoder.generate

    def written(input_ids, **options):
        read.append(shared_model.processor.tokenizer.decode(input_ids[0]))
        assert not worn_adapters(shared_model.decoder)
        tail = shared_model.processor.tokenizer("Who found Titan?\nSo.", return_tensors="pt").input_ids
        write(input_ids, **{**options, "max_new_tokens": 2})
        return torch.cat([input_ids, tail], dim=1)

    monkeypatch.setattr(shared_model.decoder, "generate", written)
    with serving(make_app(shared_model, rewrite=True)) as url:
        body = ask(url, messages=CHAT, max_tokens=2).json()
        assert body["clara"]["question"] == "Who found Titan?" and body["clara"]["messages_not_read"] == 1
        alone = ask(url, max_tokens=2).json()
        assert alone["choices"][0]["message"] == body["choices"][0]["message"] and len(read) == 1
        turns = "user: What is the largest moon of Saturn?\nassistant: Titan.\nuser: Who found it?"
        assert turns in read[0] and "Be brief." not in read[0]
        long = [CHAT[0], {"role": "user", "content": "word " * 1500}, *CHAT[2:]]
        assert ask(url, messages=long, max_tokens=2).json()["clara"]["messages_not_read"] == 2
        long = [*CHAT[:3], {"role": "user", "content": "word " * 1500}]
        assert error_of(ask(url, messages=long), 400)["param"] == "messages"


def test_a_base_that_writes_nothing_leaves_the_question(shared_model, monkeypatch):
    monkeypatch.setattr(shared_model.decoder, "generate", lambda input_ids, **_: input_ids)
    assert standalone_question(shared_model, [("user", "Why?"), ("user", "Who?")]) == ("Who?", 2)


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"messages": []}, 422, "messages"),
        ({"messages": "Who?"}, 422, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, 400, "messages"),
        ({"messages": [{"role": "assistant", "content": "Yes."}]}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "Yes."}]}, 422, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, 400, "messages"),
        ({"max_tokens": 513}, 400, "max_tokens"),
        ({"max_tokens": 0}, 422, "max_tokens"),
        ({"min_tokens": 9, "max_tokens": 3}, 400, "min_tokens"),
        ({"temperature": -1}, 422, "temperature"),
        ({"n": 2}, 422, "n"),
        ({"seed": 2**53}, 422, "seed"),
        ({"presence_penalty": 1.0}, 422, "presence_penalty"),
        ({"retrieval_top_k": 7}, 400, "retrieval_top_k"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 422, "tools"),
        ({"response_format": {"type": "json_object"}}, 422, "response_format.type"),
        ({"store": True}, 422, "store"),
        ({"logit_bias": {"5": 1}}, 422, "logit_bias"),
        ({"colour": "red"}, 422, "colour"),
        ({"stop": [""]}, 422, None),
    ],
)
def test_bad_requests_are_told_apart(url, fields, status, param):
    error = error_of(ask(url, **fields), status)
    assert error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"model": "sights"}', b"[" * 9000, b'{"a": "\\ud800"}']
)
def test_malformed_bodies(url, content):
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{url}/v1/chat/completions", content=content, headers=headers)
    assert response.status_code in (400, 422)
    error_of(response, response.status_code)


@pytest.mark.parametrize(
    "question", ["\x00\x01\x1b[31m", "<script>alert(1)</script>", "\u202eolleh", "🙂" * 9]
)
def test_odd_characters_are_only_text(url, question):
    assert ask(url, question, max_tokens=2).status_code == 200


def test_bodies_above_the_limit_are_refused_announced_or_not(url):
    big = b'{"model": "sights", "user": "' + b"x" * 30_000 + b'"}'
    for content in (big, iter([big[:15_000], big[15_000:]])):
        error_of(httpx.post(f"{url}/v1/chat/completions", content=content), 413)
    error_of(httpx.get(f"{url}/v1/nothing"), 404)
    error_of(httpx.get(f"{url}/v1/chat/completions"), 405)


def test_the_queue_answers_429_and_recovers(shared_model):
    app = make_app(shared_model, max_batch=1, max_queue=2)
    engine = app.state.dispatch.engine
    with serving(app) as url:
        threads = [threading.Thread(target=ask, args=(url,), kwargs=LONG) for _ in range(3)]
        threads[0].start()
        wait_until(lambda: engine.running == 1)  # a third one would find the queue full before the first runs
        for thread in threads[1:]:
            thread.start()
        wait_until(lambda: engine.running == 1 and engine.waiting == 2)
        response = ask(url)
        assert error_of(response, 429)["type"] == "rate_limit_error"
        assert int(response.headers["retry-after"]) >= 1
        for thread in threads:
            thread.join()
        assert ask(url, max_tokens=2).status_code == 200
        assert 'clara_requests_total{status="429"} 1.0' in httpx.get(f"{url}/metrics").text


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_row(url, app, stream):
    engine, before = app.state.dispatch.engine, app.state.dispatch.metrics.cancelled._value.get()
    body = {"model": "sights", "messages": [{"role": "user", "content": "Who?"}], "stream": stream, **LONG}
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
    wait_until(lambda: engine.running == 0)
    address, steps, read = urlsplit(url), engine.steps, b""
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
        while stream and b"data:" not in read:
            read += client.recv(4096)
        wait_until(lambda: engine.running == 1)
    wait_until(lambda: app.state.dispatch.metrics.cancelled._value.get() == before + 1)
    wait_until(lambda: engine.running == 0)
    assert engine.steps - steps < LONG["max_tokens"] - 1, "the answer was written to its end"


def test_an_engine_that_fails_is_told_without_its_secrets(url, app, monkeypatch):
    def broken(tokens):
        raise RuntimeError("secret path")

    monkeypatch.setattr(app.state.dispatch.engine._batch, "step", broken)
    response = ask(url)
    assert "secret" not in response.text and error_of(response, 500)["type"] == "server_error"
    with httpx.stream(
        "POST",
        f"{url}/v1/chat/completions",
        json={"model": "sights", "messages": [{"role": "user", "content": "Who?"}], "stream": True},
        timeout=60,
    ) as streamed:
        lines = [line for line in streamed.iter_lines() if line]
    assert "error" in json.loads(lines[-2][6:]) and lines[-1] == "data: [DONE]"


def test_health_and_metrics(url):
    for path in ("/health", "/health/ready", "/health/live"):
        assert httpx.get(url + path).json()["status"] == "ok"
    ask(url, max_tokens=2)
    page = httpx.get(f"{url}/metrics").text
    for name in ("clara_requests_total", "clara_generated_tokens_total", "clara_request_seconds_bucket"):
        assert name in page
    error_of(ask(url, max_tokens=0), 422)
    assert 'clara_requests_total{status="422"}' in httpx.get(f"{url}/metrics").text
    assert "clara_running 0.0" in page and "process_resident_memory_bytes" in page


def test_readiness_ends_with_the_engine(shared_model):
    from fastapi.testclient import TestClient

    app = make_app(shared_model)
    with TestClient(app) as client:
        app.state.dispatch.engine.close()
        assert client.get("/health").status_code == 503
        assert client.get("/health/live").status_code == 200
        body = {"model": "one", "messages": [{"role": "user", "content": "Who?"}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 503
