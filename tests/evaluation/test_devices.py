"""The device of a command, on a torch that is built for CUDA and stands on a machine without a GPU too."""

from pathlib import Path

import pytest
import torch
from clara.commands.main import main
from clara.evaluation.devices import choose_device


@pytest.fixture
def built_for_cuda(monkeypatch):
    """What PyPI's torch for Linux says without a GPU: CUDA is its accelerator, and none is there."""

    def current_accelerator(check_available=False):
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda")
    )
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


def test_without_a_gpu_the_work_goes_to_the_cpu(built_for_cuda):
    assert choose_device() == torch.device("cpu")
    assert choose_device("cpu") == torch.device("cpu")


def test_with_gpus_the_work_goes_there(two_gpus):
    assert choose_device() == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cpu") == torch.device("cpu")


def test_a_device_that_is_not_there_is_refused(two_gpus):
    for name in ("cuda:2", "xpu"):
        with pytest.raises(ValueError, match=f"`--device` {name}: .*give cpu"):
            choose_device(name)
    with pytest.raises(ValueError, match="`--device` 'gpu' is no device of torch"):
        choose_device("gpu")


def test_a_command_says_so_in_one_line(built_for_cuda, capsys):
    assert main(["demo", "--device", "cuda"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("clara demo: `--device` cuda: torch finds none here") and told.count("\n") == 1


def test_no_other_file_asks_torch_for_the_accelerator():
    root = Path(__file__).resolve().parents[2]
    asking = [
        str(file.relative_to(root))
        for file in root.rglob("*.py")
        if not {".venv", "build"} & set(file.parts)
        and "current_accelerator" in file.read_text(encoding="utf-8")
    ]
    assert sorted(asking) == ["evaluation/devices.py", "tests/evaluation/test_devices.py"]
