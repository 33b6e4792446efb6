"""A checkpoint between two: adapters averaged weight by weight (Wortsman et al. 2022, arXiv 2109.01903).

Further training on other questions often wins there and loses where the checkpoint was good before; a mean of
both checkpoints can keep most of what each of them does well, and costs nothing when it is used.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..adapters_clara import adapter_state, check_adapter_state, load_adapter_state
from ..bases.folders import complete_folder
from ..checkpoint_clara import base_is_own
from ..modeling_clara import ClaraForRetrievalGeneration

AVERAGED = ("query_reasoner", "generator")


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
        names: Of `AVERAGED`. Never the compressor: memories that are stored stay valid.

    Raises:
        ValueError: If an argument is out of its range, compressor or base of the two differ, or their
            adapters have different shapes.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"`weight` must be from 0 to 1, got {weight}.")
    unknown = [name for name in names if name not in AVERAGED]
    if unknown or not names:
        raise ValueError(f"`names` must be of {', '.join(AVERAGED)}, got {list(names)}.")
    if model.memory_fingerprint() != other.memory_fingerprint():
        raise ValueError("`other` has another compressor or base: both must come from one pretraining.")
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
