"""Private memory grows by what is allocated, and the peak outlives it."""

import sys
import time

import numpy as np
import pytest
import torch
from clara.evaluation.speed.timing import growth, private_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell what is shared")
SIZE = 1 << 27


def test_peak_and_rest():
    with growth() as found:
        large = np.ones(SIZE, np.uint8)
        before = private_bytes()
        time.sleep(0.1)
        del large
    assert found.most >= 0.9 * SIZE and found.left <= 0.5 * SIZE
    assert before >= SIZE


def test_heap_that_was_used_before_counts_again():
    for _ in range(2):
        with growth() as found:
            many = [torch.ones(1 << 16) for _ in range(256)]
            time.sleep(0.1)
            del many
        assert found.most > 0.5 * (256 << 18)
