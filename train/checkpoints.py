"""Training checkpoints: adapters and memory tokens only, and only complete ones count."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from ..adapters_clara import WEIGHTS_FILE, adapter_names, load_adapter_state
from ..checkpoint_clara import own_names, read_own_tensors

MARKER = "complete.json"


def mark_complete(folder: str | os.PathLike, step: int) -> None:
    """Writes the completion marker of a checkpoint, last and in one step."""
    temporary = Path(folder, MARKER + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"step": step}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, Path(folder, MARKER))


def complete_checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = []
    for folder in Path(output_dir).glob("checkpoint-*"):
        step = folder.name.rpartition("-")[2]
        if step.isdigit() and (folder / MARKER).is_file():
            found.append((int(step), folder))
    return [folder for _, folder in sorted(found)]


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The newest complete checkpoint of a run, or None."""
    found = complete_checkpoints(output_dir)
    return str(found[-1]) if found else None


def rotate(output_dir: str | os.PathLike, limit: int | None, keep: str | None = None) -> None:
    """Removes the oldest complete checkpoints above a limit, and every incomplete one older than the newest.

    Args:
        output_dir: The run's folder.
        limit: Complete checkpoints to keep; None keeps all.
        keep: A checkpoint that stays in any case (the best one).
    """
    complete = complete_checkpoints(output_dir)
    stale = [] if limit is None else complete[: max(0, len(complete) - limit)]
    for folder in stale:
        if str(folder) != keep:
            shutil.rmtree(folder)


def load_trained(model: Any, folder: str) -> None:
    """Loads adapters and own parameters of a checkpoint into a model that has them, strictly.

    Raises:
        FileNotFoundError: If an adapter's file is missing.
        ValueError: If a tensor is missing, extra or misshapen.
    """
    for name in adapter_names(model.decoder):
        file = os.path.join(folder, name, WEIGHTS_FILE)
        if not os.path.isfile(file):
            raise FileNotFoundError(
                f"{folder} has no {name}/{WEIGHTS_FILE}: the checkpoint lacks its {name} adapter."
            )
        load_adapter_state(model.decoder, name, load_file(file), where=file)
    tensors = read_own_tensors(folder, own_names(model.config))
    if tensors is not None:
        model.load_own_parameters(tensors, folder)
