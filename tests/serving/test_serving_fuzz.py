"""The server against requests made of its own OpenAPI schema: it never fails, and says what it promises."""

import httpx
import pytest
from conftest import make_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_helpers import make_app, serving

schemathesis = pytest.importorskip("schemathesis")
pytestmark = pytest.mark.slow
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def client(base):
    with (
        serving(make_app(make_model(base), max_new_tokens=4)) as url,
        httpx.Client(base_url=url, timeout=60) as opened,
    ):
        yield opened


@pytest.mark.parametrize(
    "place", ["POST /v1/chat/completions", "GET /v1/models", "GET /health", "GET /health/live"]
)
def test_responses_are_those_of_the_schema(client, place):
    method, path = place.split()
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")

    @QUICK
    @given(case=schema[path][method].as_strategy())
    def check(case):
        response = case.call()
        assert response.status_code < 500, response.text
        case.validate_response(response)

    check()


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
