"""`clara serve` as a process: names, memories, merged adapters, kernels kept, SIGTERM, the load test."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from clara.adapters_clara import MERGED, tuner_layers
from clara.commands.bench_serve import MAIN, render
from clara.commands.main import main
from clara.commands.serve import KERNEL_CACHES, KERNELS, bound_kernel_caches, named_folders
from conftest import DOCUMENTS, make_model, save_base
from serving_helpers import ask


def test_memories_get_their_folders_names_or_others():
    assert named_folders(["/tmp/a/notes", "other=/b/notes"]) == {"notes": "/tmp/a/notes", "other": "/b/notes"}
    with pytest.raises(ValueError, match="'notes' twice"):
        named_folders(["a/notes", "b/notes"])
    with pytest.raises(ValueError, match="NAME=FOLDER"):
        named_folders(["=x"])


def test_a_memory_of_another_model_is_refused(checkpoint, tmp_path, capsys):
    other = make_model(save_base(tmp_path / "base", seed=5))
    other.build_memory(DOCUMENTS, show_progress=False).save_pretrained(tmp_path / "memory")
    arguments = ["serve", "--model", checkpoint, "--memory", str(tmp_path / "memory")]
    assert main(arguments) == 2
    assert "another compressor" in capsys.readouterr().err


# `clara serve` up to an error, then twice the same shapes, more of them than torch may keep kernels for.
SHAPES = """
import sys
from clara.commands.main import main
from clara.commands.serve import KERNELS
assert "torch" not in sys.modules
if sys.argv[1] == "served":
    main(["serve", "--memory", "=x"])
import torch
weight = torch.zeros(64, 64, dtype=torch.bfloat16)
for turn in "first", "second":
    print("turn", turn, flush=True)
    for rows in range(64, 64 + 2 * KERNELS):
        torch.nn.functional.linear(torch.zeros(rows, 64, dtype=torch.bfloat16), weight)
"""


def kernels_made(how):
    """How many kernels oneDNN made in either turn, by its own record."""
    environment = {name: value for name, value in os.environ.items() if name not in KERNEL_CACHES}
    environment["ONEDNN_VERBOSE"] = "profile_create"
    done = subprocess.run(
        [sys.executable, "-c", SHAPES, how], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return [turn.count("create:cache_miss") for turn in done.stdout.split("turn ")[1:]]


@pytest.mark.slow
def test_kernels_of_old_shapes_are_forgotten_lest_the_server_grows():
    first, second = kernels_made("plain")
    if first < 2 * KERNELS:
        pytest.skip("torch makes no oneDNN kernels for bfloat16 on this machine")
    assert second == 0  # all of them were kept
    first, second = kernels_made("served")
    assert second == first >= 2 * KERNELS


def test_bounds_that_the_environment_sets_stay(monkeypatch):
    ours, theirs = KERNEL_CACHES
    monkeypatch.setenv(ours, "7")
    monkeypatch.setenv(theirs, "")
    monkeypatch.delenv(theirs)
    bound_kernel_caches()
    assert (os.environ[ours], os.environ[theirs]) == ("7", str(KERNELS))


@pytest.mark.parametrize(("flags", "merged"), [([], False), (["--merge-adapters"], True)])
def test_adapters_are_merged_where_that_is_asked_for(
    flags, merged, checkpoint, shared_model, tmp_path, monkeypatch
):
    shared_model.build_memory(DOCUMENTS, show_progress=False).save_pretrained(tmp_path / "sights")
    served = []
    monkeypatch.setattr(
        "uvicorn.Server.run", lambda self, sockets: served.append(self.config.app.state.dispatch)
    )
    monkeypatch.setattr("signal.signal", lambda *_: None)
    words = ["serve", "--model", checkpoint, "--memory", str(tmp_path / "sights"), "--port", "0", *flags]
    assert main(words) == 0
    layers = list(tuner_layers(served[0].engine.model.decoder))
    kept = {name for layer in layers for name in layer.__dict__.get(MERGED, ())}
    assert kept == ({"query_reasoner", "generator"} if merged else set())


def test_the_banner_says_where_what_and_for_whom(checkpoint, shared_model, tmp_path, monkeypatch, capsys):
    shared_model.build_memory(DOCUMENTS, show_progress=False).save_pretrained(tmp_path / "sights")
    seen = []
    monkeypatch.setattr(
        "uvicorn.Server.run", lambda self, sockets: seen.append((self.config.app, sockets[0].getsockname()))
    )
    monkeypatch.setattr("signal.signal", lambda *_: None)
    words = ["serve", "--model", checkpoint, "--memory", f"notes={tmp_path / 'sights'}", "--port"]
    assert main([*words, "0"]) == 0
    ((app, (_, port)),) = seen
    told = capsys.readouterr().out
    assert f"http://127.0.0.1:{port}/v1" in told and "notes  6 passages" in told and checkpoint in told
    assert "CLARA_API_KEY is not set" in told
    monkeypatch.setenv("CLARA_API_KEY", "a secret")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main([*words, str(taken.getsockname()[1])]) == 2
    assert "choose another `--port`" in capsys.readouterr().err
    assert main([*words, "0"]) == 0
    told = capsys.readouterr().out
    assert "needed, from CLARA_API_KEY" in told and "a secret" not in told


@pytest.fixture
def process(checkpoint, shared_model, tmp_path):
    """A server process on a free port, ready; and its address."""
    shared_model.build_memory(DOCUMENTS, show_progress=False).save_pretrained(tmp_path / "sights")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", MAIN, "serve", "--memory", str(tmp_path / "sights"), "--port", str(port)]
    started = subprocess.Popen([*command, "--model", checkpoint], stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}"
    end = time.time() + 120
    while time.time() < end:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                break
        except httpx.TransportError:
            assert started.poll() is None, started.stderr.read()
            time.sleep(0.1)
    yield started, url
    started.kill()
    started.communicate()


@pytest.mark.slow
def test_sigterm_lets_taken_questions_be_answered(process):
    started, url = process
    answers = []
    fields = {"max_tokens": 400, "min_tokens": 400}
    asking = threading.Thread(target=lambda: answers.append(ask(url, **fields)))
    asking.start()
    while "clara_running 1.0" not in httpx.get(f"{url}/metrics").text:
        time.sleep(0.01)
    started.send_signal(signal.SIGTERM)
    asking.join(120)
    assert answers[0].status_code == 200 and answers[0].json()["usage"]["completion_tokens"] == 400
    _, errors = started.communicate(timeout=120)
    assert started.returncode == 0 and "Traceback" not in errors
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health")


def test_the_load_test_asks_for_equal_answers_where_numbers_are_exact():
    side = dict.fromkeys(("p50", "p95", "p99", "answers_per_second", "tokens_per_second"), 1.0)
    side |= {"answers": 3, "errors": 0}
    keys = ("p95_over_ideal", "throughput_over_one", "resident_first_half", "resident_second_half")
    result = {
        **dict.fromkeys(keys, 1.0),
        "one": side,
        "many": side,
        "clients": 4,
        "rows": 1,
        "new_tokens": 2,
        "seconds": 1,
    }
    result |= {
        "ideal_median": 1.0,
        "ideal_batch_seconds": [1.0],
        "questions_in_both": 9,
        "answered_otherwise": 5,
    }
    result["burst"] = {"requests": 3, "statuses": {}, "429_without_retry_after": 0}
    for dtype, told in (
        ("float32", "| 5 | 0 |"),
        ("bfloat16", "| 5 | 0 in float32; bfloat16 rounds by batch |"),
    ):
        assert told in render({**result, "dtype": dtype})
    assert "| throughput over one | 1.00 | at least 3 |" in render({**result, "dtype": "float32"})
    assert "here one client fills 6" in render({**result, "dtype": "float32", "rows": 6})


def test_the_load_test_needs_room_for_its_clients(capsys):
    assert main(["bench-serve", "--clients", "16", "--max-queue", "8"]) == 2
    assert "at least `--clients` (16), got 8" in capsys.readouterr().err


@pytest.mark.slow
def test_the_load_test_runs_and_writes_its_table(checkpoint, tmp_path, capsys):
    options = ["--clients", "4", "--seconds", "2", "--new-tokens", "8", "--repeats", "1", "--max-queue", "4"]
    assert main(["bench-serve", "--model", checkpoint, *options, "--output", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "serve.json").read_text())
    assert result["many"]["errors"] == 0 and result["many"]["answers"] >= 4
    assert set(result["burst"]["statuses"]) == {"200", "429"}
    assert result["questions_in_both"] > 0 and result["answered_otherwise"] == 0
    assert result["burst"]["429_without_retry_after"] == 0
    assert "p95 over ideal" in capsys.readouterr().out
    assert (tmp_path / "serve.md").read_text() == render(result)
