"""The client against a scripted server that misbehaves, and runs that are killed and resumed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial

import pytest

pytest.importorskip("openai")
pytest.importorskip("datatrove")

from clara.data.synthesis.finish import read_outcomes
from clara.data.synthesis.machine import SynthesisSettings
from clara.data.synthesis.openai_teacher import OpenAITeacher
from clara.data.synthesis.pipeline import synthesize
from clara.data.synthesis.rank import run_rank
from clara.data.synthesis.teacher import (
    Request,
    TeacherSettings,
    TeacherStoppedError,
    TeacherUnavailableError,
    open_teacher,
)
from datatrove.data import Document
from scripted_server import Fault, ScriptedServer, completion

HELLO = Request(({"role": "user", "content": "hello"},))
DOCUMENTS = [
    f"The tower of Town {n} was built in {1900 + n} by Anna Smith. It has {n + 30} steps." for n in range(12)
]


@pytest.fixture
def serve():
    with ExitStack() as stack:
        yield lambda fault=None, delay=0.0: stack.enter_context(ScriptedServer(delay, fault))


def complete(url, request=HELLO, max_rounds=3, **options):
    async def one():
        teacher = OpenAITeacher(TeacherSettings(url, **options), max_rounds)
        try:
            return await teacher.complete(request), teacher
        finally:
            await teacher.close()

    return asyncio.run(one())


def run(server, folder, documents=DOCUMENTS, kinds=("simple", "complex"), **options):
    settings = TeacherSettings(server.url, **{"concurrency": 8, "timeout": 3.0, **options})
    items = (Document(text=text, id=str(n)) for n, text in enumerate(documents))
    job = partial(synthesize, settings=SynthesisSettings(kinds))
    return run_rank(items, job, partial(open_teacher, settings), folder)


def test_reply_tokens_and_model_of_the_server(serve):
    reply, teacher = complete(serve().url)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("yes", 10, 2)
    assert teacher.model == "scripted"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, headers="retry-after: 0.01\r\n"),
        Fault(500),
        Fault(503, "busy"),
        Fault(200, "{not json"),
        Fault(200, '{"choices": []}'),
        Fault(200, delay=5),
    ],
)
def test_faults_are_retried(serve, fault):
    server = serve(lambda number: fault if number in (1, 2) else None)
    reply, _ = complete(server.url, timeout=0.3 if fault.delay else 30.0)
    assert reply.text == "yes"
    assert server.asked == 3


def test_unreachable_from_the_start_fails_fast_and_names_the_url():
    started = time.monotonic()
    with pytest.raises(TeacherUnavailableError, match="no teacher answers at http://127.0.0.1:9/v1"):
        complete("http://127.0.0.1:9/v1")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("status", [401, 404])
def test_refused_key_or_model_is_fatal(serve, status):
    with pytest.raises(TeacherUnavailableError, match=rf"refuses model 'big': .*{status}"):
        complete(serve(lambda number: Fault(status)).url, model="big")


def test_request_that_the_server_never_accepts_is_given_up(serve):
    reply, _ = complete(serve(lambda number: Fault(400)).url)
    assert reply.finish_reason == "bad_request"
    poison = serve(lambda number: Fault(500) if number <= 3 else None)
    reply, _ = complete(poison.url, max_rounds=1)
    assert reply.finish_reason == "bad_request"
    assert poison.asked == 4  # three attempts of the client, and a tiny request that shows the server alive


def test_server_without_schemas_is_asked_without(serve):
    server = serve(lambda number: Fault(400) if number == 1 else None)
    reply, teacher = complete(
        server.url, Request(HELLO.messages, schema={"type": "object"}, schema_name="Answer")
    )
    assert reply.finish_reason == "stop"
    assert not teacher._send_schema


@pytest.mark.parametrize("body", [completion(None, refusal="no"), completion("", "content_filter")])
def test_refusals_are_told_apart(serve, body):
    reply, _ = complete(serve(lambda number: Fault(200, body)).url)
    assert reply.finish_reason == "refusal"


def misbehave(number):
    """429, 500, timeout, invalid JSON, a slow answer, prose and an unfinished answer, at fixed calls."""
    return {
        3: Fault(429, headers="retry-after: 0.05\r\n"),
        8: Fault(500),
        13: Fault(200, delay=6),
        17: Fault(200, "<html>"),
        22: Fault(200, None, delay=0.3),
        27: Fault(200, completion("I would rather tell you a story.")),
        31: Fault(200, completion('{"correct": tr', "length")),
        36: Fault(200, completion("I'm sorry, but I can't help with that.")),
    }.get(number % 40)


def test_every_document_counts_once_on_a_bad_server_and_a_rerun_asks_nothing(serve, tmp_path):
    server = serve(misbehave)
    totals = run(server, tmp_path)
    outcomes = list(read_outcomes(tmp_path))
    assert sorted(o.id for o in outcomes) == sorted(str(n) for n in range(12))
    assert all(signal.accepted or signal.reason for o in outcomes for signal in o.signals)
    assert sum(o.accepted for o in outcomes) == totals["accepted"] >= 6
    assert max(server.answered.values()) == 1
    asked = server.asked
    assert run(server, tmp_path) == totals
    assert server.asked == asked


def test_teacher_dying_midway_stops_resumably(serve, tmp_path):
    dead = threading.Event()
    server = serve(lambda number: Fault(503) if dead.is_set() or number == 60 and not dead.set() else None)
    with pytest.raises(TeacherStoppedError, match="Every finished call is kept"):
        run(server, tmp_path, patience=1.0, timeout=5.0)
    assert "stopped" in json.loads((tmp_path / "progress" / "00000.json").read_text())["state"]
    server.fault = lambda number: None
    totals = run(server, tmp_path)
    assert totals["items"] == 12 == len(list(read_outcomes(tmp_path)))
    assert totals["calls"] == sum(server.answered.values())
    assert max(server.answered.values()) == 1


CHILD = """
from functools import partial
from clara.data.synthesis.machine import SynthesisSettings
from clara.data.synthesis.pipeline import synthesize
from clara.data.synthesis.rank import run_rank
from clara.data.synthesis.teacher import TeacherSettings, open_teacher
from datatrove.data import Document
import json, sys
url, folder, documents = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
items = [Document(text=text, id=str(n)) for n, text in enumerate(documents)]
teacher = partial(open_teacher, TeacherSettings(url, concurrency=8))
run_rank(items, partial(synthesize, settings=SynthesisSettings()), teacher, folder)
"""


@pytest.mark.slow
def test_killed_run_goes_on_where_it_was(serve, tmp_path):
    server = serve(delay=0.02)
    documents = tmp_path / "documents.json"
    documents.write_text(
        json.dumps([f"{text} It belongs to Carl Jones." for text in DOCUMENTS] * 1 + DOCUMENTS)
    )
    command = [sys.executable, "-c", CHILD, server.url, str(tmp_path / "out"), str(documents)]
    process = subprocess.Popen(command, env=os.environ)
    while server.asked < 120 and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, "the child ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = sum(server.answered.values())
    subprocess.run(command, check=True)
    outcomes = list(read_outcomes(tmp_path / "out"))
    assert sorted(int(outcome.id) for outcome in outcomes) == list(range(24))
    repeated = sum(count - 1 for count in server.answered.values())
    assert repeated <= 8, "more than the calls in flight were lost"
    assert before > 80
    assert all(len(json.loads(line)) == 3 for f in (tmp_path / "out/raw").glob("*") for line in f.open())
