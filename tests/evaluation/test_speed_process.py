"""Private memory grows by what is allocated, and the peak outlives it."""

import time

import numpy as np
import pytest
from clara.evaluation.speed import process
from clara.evaluation.speed.process import peak_memory, private_bytes

pytestmark = pytest.mark.skipif(not process.STATUS.is_file(), reason="the system does not tell")
SIZE = 1 << 27


def test_peak_and_rest():
    with peak_memory() as found:
        large = np.ones(SIZE, np.uint8)
        before = private_bytes()
        time.sleep(0.2)
        del large
    assert found.most >= 0.9 * SIZE and found.left <= 0.5 * SIZE
    assert before >= SIZE


def test_a_system_that_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(process, "STATUS", tmp_path / "missing")
    assert private_bytes() == 0
