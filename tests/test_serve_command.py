"""`clara serve` as a process: names of memories, a memory of another model, SIGTERM, the load test."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from clara.commands.bench_serve import MAIN, render
from clara.commands.main import main
from clara.commands.serve import named_folders
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
    assert result["burst"]["429_without_retry_after"] == 0
    assert "p95 over ideal" in capsys.readouterr().out
    assert (tmp_path / "serve.md").read_text() == render(result)
