"""Required operations of a step, and utilisation."""

import time

import pytest
import torch
from clara.train import throughput
from clara.train.throughput import StepFlops, Throughput, device_peak_tflops
from conftest import make_model

# H 32, MLP 48, 2 layers; per layer q and o 32x32, k and v 32x16, three 32x48, two norms of 32; one last norm.
BODY = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32) + 32
HEAD = 512 * 32


def batch(**extra):
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    labels = torch.tensor([[-100, -100, 5, 6], [-100, -100, -100, 7]])
    return {"attention_mask": mask, "labels": labels, **extra}


def test_a_step_by_hand(shared_model):
    flops = StepFlops(shared_model)
    assert flops.body == BODY
    assert flops.tokens(batch()) == 7
    assert flops(batch()) == 4.0 * (7 * BODY + 3 * HEAD)


def test_documents_and_questions_count_with_their_memory_tokens(shared_model):
    mask = torch.tensor([[1, 1, 1], [0, 0, 1]])
    flops = StepFlops(shared_model)
    assert flops.tokens(batch(document_attention_mask=mask)) == 7 + 4 + 2 * 4
    assert flops.tokens(batch(query_attention_mask=mask[:1])) == 7 + 3 + 4


def test_mean_pooling_appends_no_memory_tokens(base):
    flops = StepFlops(make_model(base, pooling="mean"))
    assert flops.tokens(batch(document_attention_mask=torch.ones(1, 3))) == 7 + 3


def test_speed_counts_training_alone(shared_model, monkeypatch):
    clock = iter([0.0, 10.0, 40.0, 50.0, 50.0, 51.0, 51.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    meter = Throughput(shared_model)  # 0 s
    meter.add(batch())
    with meter.paused():  # 10 to 40 s
        pass
    meter.add(batch())
    work = 2 * 4.0 * (7 * BODY + 3 * HEAD)
    speed = meter.pop(peak_tflops=2.0)  # at 50 s: 20 s of training
    tflops = pytest.approx(work / 20 / 1e12)
    assert speed == {"tokens_per_second": 14 / 20, "tflops": tflops, "mfu": pytest.approx(work / 20 / 2e12)}
    assert meter.pop() == {"tokens_per_second": 0.0, "tflops": 0.0}


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H200", 989.0), ("NVIDIA H100 80GB HBM3", 989.0), ("A100-SXM4", 312.0), ("X", None)],
)
def test_peaks_of_known_devices(monkeypatch, name, peak):
    monkeypatch.setattr(throughput.torch.cuda, "get_device_name", lambda _: name)
    assert device_peak_tflops(torch.device("cuda")) == peak
    assert device_peak_tflops(torch.device("cpu")) is None
