"""A checkpoint between two: adapters averaged weight by weight (Wortsman et al. 2022, arXiv 2109.01903).

Further training on other questions often wins there and loses where the checkpoint was good before; a mean of
both checkpoints can be better than either (results/ragged-cpu.md), and costs nothing when it is used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..adapters_clara import adapter_state, check_adapter_state, load_adapter_state
from ..bases.folders import complete_folder
from ..checkpoint_clara import base_is_own
from ..configuration_clara import ADAPTERS
from ..modeling_clara import ClaraForRetrievalGeneration

SHARED = ("base_model_name_or_path", "base_model_revision", "pooling", "num_memory_tokens", "doc_max_length")


def average_adapters(
    model: ClaraForRetrievalGeneration,
    other: ClaraForRetrievalGeneration,
    weight: float,
    names: Sequence[str] = ("query_reasoner",),
) -> None:
    """Moves adapters of a model towards another's: (1 - weight) of its own tensors + weight of the other's.

    Args:
        model: Changed in place.
        other: One whose training went on from `model`, or from the same checkpoint: the mean of unrelated
            adapters is worth nothing.
        weight: From 0 (`model` as it is) to 1 (the other's).
        names: Of `ADAPTERS`. With the compressor the memory tokens and the connector move too, and stored
            memories are to be built again; without it they stay valid.

    Raises:
        ValueError: If an argument is out of its range, compressor or base of the two differ, or their
            adapters have different shapes.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"`weight` must be from 0 to 1, got {weight}.")
    unknown = [name for name in names if name not in ADAPTERS]
    if unknown or not names:
        raise ValueError(f"`names` must be of {', '.join(ADAPTERS)}, got {list(names)}.")
    _check_kin(model, other, names)
    mixed = {}
    for name in names:
        theirs = adapter_state(other.decoder, name)
        own = check_adapter_state(model.decoder, name, theirs, where="that of `other`")
        mixed[name] = {
            key: torch.lerp(value.float(), theirs[key].float().to(value.device), weight)
            for key, value in own.items()
        }
    for name, tensors in mixed.items():
        load_adapter_state(model.decoder, name, tensors, where="the mean of both")
    if "compressor" in names:
        theirs = other.own_parameters()
        with torch.no_grad():
            for name, own in model.own_parameters().items():
                own.copy_(torch.lerp(own.float(), theirs[name].float().to(own.device), weight))


def _check_kin(model: Any, other: Any, names: Sequence[str]) -> None:
    """Raises a ValueError if two models' adapters do not belong together."""
    odd = [name for name in SHARED if getattr(model.config, name) != getattr(other.config, name)]
    if odd:
        raise ValueError(f"`other` differs in {', '.join(odd)}: both must come from one pretraining.")
    if "compressor" not in names and model.memory_fingerprint() != other.memory_fingerprint():
        raise ValueError(
            "`other` has another compressor or base, whose memories the adapters were trained on: average "
            "all three adapters, the compressor too."
        )


def average_checkpoints(
    checkpoint: str, other: str, weight: float, output: Path, names: Sequence[str] = ("query_reasoner",)
) -> None:
    """Writes `checkpoint` with adapters moved towards those of another checkpoint.

    Args:
        checkpoint: Folder or Hub id.
        other: Likewise.
        weight: As of `average_adapters`.
        output: The folder to make.
        names: As of `average_adapters`.

    Raises:
        FileExistsError: If `output` holds something already.
        ValueError: As of `average_adapters`.
    """
    with complete_folder(output) as folder:
        model = ClaraForRetrievalGeneration.from_pretrained(checkpoint)
        average_adapters(model, ClaraForRetrievalGeneration.from_pretrained(other), weight, names)
        model.save_pretrained(folder, save_base=base_is_own(model.config))
