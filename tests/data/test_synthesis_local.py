"""A local teacher, and the whole synthesis against `transformers serve`."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch

pytest.importorskip("pydantic")

from clara.data.synthesis.local_teacher import LocalTeacher
from clara.data.synthesis.teacher import Request, TeacherUnavailableError

SAMPLES = Path(__file__).parents[2] / "data" / "samples" / "corpus.jsonl"


@pytest.fixture
def teacher(base, tokenizer):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base).eval()
    return LocalTeacher(model, tokenizer, batch_size=3)


def request(text, **options):
    return Request(({"role": "user", "content": text},), **{"max_tokens": 6, **options})


def ask(teacher, *requests):
    async def all_at_once():
        return await asyncio.gather(*(teacher.complete(one) for one in requests))

    return asyncio.run(all_at_once())


def test_batches_answer_like_single_requests(teacher, monkeypatch):
    sizes, generate = [], teacher._generate
    monkeypatch.setattr(teacher, "_generate", lambda batch: sizes.append(len(batch)) or generate(batch))
    requests = [request("Titan is a moon " * n, max_tokens=n + 1) for n in range(1, 6)]
    together = ask(teacher, *requests)
    assert sizes == [3, 2]
    assert together == [ask(teacher, one)[0] for one in requests]
    assert [reply.completion_tokens for reply in together] == [2, 3, 4, 5, 6]


def test_unfinished_and_finished_replies_are_told_apart(teacher):
    (reply,) = ask(teacher, request("Titan"))
    assert (reply.finish_reason, reply.completion_tokens) == ("length", 6)
    expected = torch.tensor([[5, 5, 2, 5]])
    teacher.model.generate = lambda input_ids, **options: torch.cat([input_ids, expected], dim=1)
    (reply,) = ask(teacher, request("Titan"))
    assert (reply.finish_reason, reply.completion_tokens) == ("stop", 2)


def test_sampling_follows_its_seed(teacher):
    one, two, three = (request("Titan", temperature=1.5, seed=seed, max_tokens=20) for seed in (1, 2, 1))
    first, second, third = (ask(teacher, wanted)[0].text for wanted in (one, two, three))
    assert first == third != second


def test_request_longer_than_the_context_is_bad_and_spares_the_others(teacher):
    long, short = ask(teacher, request("moon " * 1500), request("Titan"))
    assert (long.finish_reason, short.finish_reason) == ("bad_request", "length")


def test_failure_reaches_every_waiting_request(teacher, monkeypatch):
    monkeypatch.setattr(teacher, "_generate", lambda batch: 1 / 0)

    async def both():
        calls = (teacher.complete(request("a")), teacher.complete(request("b")))
        return await asyncio.gather(*calls, return_exceptions=True)

    assert [type(error) for error in asyncio.run(both())] == [ZeroDivisionError, ZeroDivisionError]


def test_missing_model_is_named():
    with pytest.raises(TeacherUnavailableError, match="the local teacher '/nowhere' cannot be loaded"):
        LocalTeacher.from_pretrained("/nowhere")


@pytest.fixture
def served():
    """`transformers serve` with the embedded base, on a free port."""
    pytest.importorskip("uvicorn")
    from clara.bases.embedded import embedded_base_path

    path = embedded_base_path(show_progress=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        Path(sys.executable).with_name("transformers"),
        "serve",
        path,
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1", path
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(url, process, seconds=180):
    for _ in range(seconds):
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            assert process.poll() is None, "`transformers serve` ended"
            time.sleep(1)
    pytest.fail("`transformers serve` did not start")


@pytest.mark.slow
def test_every_sample_counts_once_against_transformers_serve(served, tmp_path):
    pytest.importorskip("datatrove")
    from clara.data.synthesis.finish import read_outcomes

    url, model = served
    clara = [
        sys.executable,
        "-c",
        "from clara.commands.main import main; raise SystemExit(main())",
        "synthesize",
    ]
    command = [
        *clara,
        str(SAMPLES),
        "--teacher",
        url,
        "--model",
        model,
        "--output",
        str(tmp_path),
        "--limit",
        "1",
    ]
    command += ["--max-rounds", "1", "--max-tokens", "32", "--concurrency", "2", "--timeout", "600"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        assert done.returncode == 0, done.stderr
    outcomes = list(read_outcomes(tmp_path))
    assert len({outcome.id for outcome in outcomes}) == len(outcomes) == 1
    assert all(signal.accepted or signal.reason for outcome in outcomes for signal in outcome.signals)
