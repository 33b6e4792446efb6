"""The device that a command works on: the one that is asked for, or an accelerator that is really there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def choose_device(name: str | None = None) -> torch.device:
    """The device called `name`; without a name the accelerator that torch can use, else the CPU.

    Torch's default build for Linux names CUDA as its accelerator on machines without a GPU too, so it is
    asked what is there and not what it was built for. A ValueError if torch cannot use the device here.
    """
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    if name is None:
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"`--device` {name!r} is no device of torch: give cpu, cuda or cuda:1.") from error
    if device.type == "cpu":
        return device
    there = torch.accelerator.device_count() if found is not None and found.type == device.type else 0
    if (device.index or 0) >= there:
        what = f"sees {there} of that kind" if there else "finds none here that it can use"
        raise ValueError(f"`--device` {name}: torch {what}; give cpu, or leave `--device` out.")
    return device
