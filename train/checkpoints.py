"""Training checkpoints: adapters and memory tokens only, and only complete ones count."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.utils import SAFE_WEIGHTS_NAME

from ..adapters_clara import (
    WEIGHTS_FILE,
    adapter_names,
    adapter_state,
    load_adapter_state,
    save_adapter,
)
from ..checkpoint_clara import OWN_NAMES, own_names, read_own_tensors
from ..data.writers import whole_file

MARKER = "complete.json"


def mark_complete(folder: str | os.PathLike, step: int) -> None:
    """Writes the completion marker of a checkpoint, last and in one step, once its files are on the disk."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            _sync(path)
    with whole_file(Path(folder, MARKER)) as partial:
        partial.write_text(json.dumps({"step": step}), encoding="utf-8")
        _sync(partial)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def is_complete(folder: str | os.PathLike) -> bool:
    """Whether a checkpoint was written to its end."""
    return Path(folder, MARKER).is_file()


def complete_checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = []
    for folder in Path(output_dir).glob("checkpoint-*"):
        step = folder.name.rpartition("-")[2]
        if step.isdigit() and is_complete(folder):
            found.append((int(step), folder))
    return [folder for _, folder in sorted(found)]


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The newest complete checkpoint of a run, or None."""
    found = complete_checkpoints(output_dir)
    return str(found[-1]) if found else None


def rotate(output_dir: str | os.PathLike, limit: int | None, keep: str | None = None) -> None:
    """Removes the oldest complete checkpoints above a limit.

    Args:
        output_dir: The run's folder.
        limit: Complete checkpoints to keep; None keeps all.
        keep: A checkpoint that stays in any case (the best one).
    """
    complete = complete_checkpoints(output_dir)
    stale = [] if limit is None else complete[: max(0, len(complete) - limit)]
    for folder in stale:
        if keep is None or folder.resolve() != Path(keep).resolve():
            Path(folder, MARKER).unlink()
            shutil.rmtree(folder)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Adapters and own parameters by name, gathered from all processes where they are sharded.

    Every process must call it. The base is not in it.
    """
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().cpu()
        for name, p in model.named_parameters()
        if ".lora_" in name or name in OWN_NAMES
    }


def save_trained(model: Any, folder: str, state: dict[str, Tensor] | None = None) -> None:
    """Writes adapters and own parameters alone, for a model whose base has no name to load it by.

    Args:
        model: A CLaRa model.
        folder: Where to.
        state: What `trained_state` gave, where the model is sharded.
    """
    state = trained_state(model) if state is None else state
    decoder = {name.removeprefix("decoder."): tensor for name, tensor in state.items()}
    for name in adapter_names(model.decoder):
        save_adapter(model.decoder, name, os.path.join(folder, name), decoder)
    own = {name: state[name].detach().cpu().clone() for name in own_names(model.config)}
    save_file(own, os.path.join(folder, SAFE_WEIGHTS_NAME), metadata={"format": "pt"})


def load_trained(model: Any, folder: str) -> None:
    """Loads adapters and own parameters of a checkpoint into a model that has them, strictly.

    Args:
        model: A CLaRa model, which may be sharded (FSDP2).
        folder: The checkpoint.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a tensor is missing, extra or misshapen, or the checkpoint holds a base.
    """
    for name in adapter_names(model.decoder):
        file = os.path.join(folder, name, WEIGHTS_FILE)
        if not os.path.isfile(file):
            raise FileNotFoundError(
                f"{folder} has no {name}/{WEIGHTS_FILE}: the checkpoint lacks its {name} adapter."
            )
        tensors = _sharded_like(load_file(file), adapter_state(model.decoder, name))
        load_adapter_state(model.decoder, name, tensors, where=file)
    names = own_names(model.config)
    tensors = read_own_tensors(folder, names) if names else {}
    if tensors is None:
        raise ValueError(f"{folder} holds base weights: it is no training checkpoint, give it as `model`.")
    model.load_own_parameters(_sharded_like(tensors, model.own_parameters()), folder)


@torch.no_grad()
def _sharded_like(tensors: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, spread over the processes as the model's own of the same name and shape are."""
    sharded = {
        name: distribute_tensor(
            tensors[name].to(other.device, other.dtype), other.device_mesh, other.placements
        )
        for name, other in own.items()
        if isinstance(other, DTensor) and name in tensors and tensors[name].shape == other.shape
    }
    return {**tensors, **sharded}
