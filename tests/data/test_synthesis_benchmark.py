"""The client's benchmark runs as a command, shares are shares, and memory does not grow with documents."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("openai")
pytest.importorskip("datatrove")

from clara.data.synthesis.benchmark import documents, measure_throughput


def test_documents_differ():
    texts = {item.text for item in documents(2000)}
    assert len(texts) == 2000


def test_throughput_is_a_share_of_the_ideal():
    found = measure_throughput(delay=0.02, concurrency=4, count=8)
    assert found["calls"] == 32
    assert found["ideal_seconds"] == pytest.approx(32 * 0.02 / 4)
    assert found["share_of_ideal"] == pytest.approx(found["ideal_seconds"] / found["seconds"])
    assert 0 < found["share_of_ideal"] < 1 and found["cpu_seconds"] > 0


@pytest.mark.slow
def test_memory_stays_flat():
    """Peak memory after 4,000 and after 20,000 documents; docs/synthesis.md has the numbers for 100,000."""
    options = ["--documents", "8", "--delay", "0.02", "--memory-documents", "20000"]
    command = [sys.executable, "-m", "clara.data.synthesis.benchmark", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout)["memory"]
    assert memory["documents"] == [4000, 8000, 12000, 16000, 20000]
    assert memory["mebibytes"][-1] - memory["mebibytes"][0] < 2
