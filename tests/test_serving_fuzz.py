"""The server against requests made of its own OpenAPI schema: it never fails, and says what it promises."""

import pytest
from conftest import make_model
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_helpers import make_app

schemathesis = pytest.importorskip("schemathesis")
pytestmark = pytest.mark.slow
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def app(base):
    return make_app(make_model(base), max_new_tokens=4)


@pytest.fixture(scope="module")
def client(app):
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def api(app, client):
    return schemathesis.openapi.from_asgi("/openapi.json", app)


lazy = schemathesis.pytest.from_fixture("api")


@lazy.parametrize()
@QUICK
def test_responses_are_those_of_the_schema(case):
    response = case.call()
    assert response.status_code < 500, response.text
    case.validate_response(response)


@settings(parent=QUICK, max_examples=150)
@given(question=st.text(max_size=200), model=st.text(max_size=20) | st.just("one"), extra=JSON)
def test_any_texts_get_an_answer_or_an_error_of_the_callers(client, question, model, extra):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 2}
    response = client.post("/v1/chat/completions", json={**body, "stop": "x"})
    assert response.status_code in (200, 400, 404, 422)
    bent = client.post(
        "/v1/chat/completions", content=repr({**body, "memory": extra}).encode("utf-8", "replace")
    )
    assert bent.status_code in (400, 422)
    assert "error" in bent.json()


@settings(parent=QUICK, max_examples=150)
@given(content=st.binary(max_size=300))
def test_any_bytes_get_an_error_of_the_callers(client, content):
    headers = {"content-type": "application/json"}
    response = client.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code in (400, 422) and "error" in response.json()
