"""The three stages of training as one table: what trains, its start, its losses, the paper's defaults."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..adapters_clara import adapter_names, adapter_parameters, copy_adapter, tuner_layers

STARTS = ("kept", "fresh", "compressor")


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        adapters: The adapters that train; nothing else of the decoder does.
        memory_tokens: Whether memory tokens (and the connector) train. They and the compressor must be
            frozen where stored memories are used.
        starts: Where adapters start from, if not from the checkpoint.
        alignment_weight: Weight of the alignment loss beside the cross-entropy (lambda, paper equation 2.4).
        learning_rate: Peak learning rate (paper table 10).
        batch_size: Examples an optimizer step (paper table 10), which the recipes of its bases follow.
    """

    adapters: tuple[str, ...]
    memory_tokens: bool
    starts: Mapping[str, str]
    alignment_weight: float
    learning_rate: float
    batch_size: int


STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        "pretraining": Stage(("compressor", "generator"), True, {}, 0.1, 1e-4, 128),
        "instruction_tuning": Stage(("compressor", "generator"), True, {}, 0.1, 1e-4, 128),
        "end_to_end": Stage(
            ("query_reasoner", "generator"), False, {"query_reasoner": "compressor"}, 0.0, 5e-6, 32
        ),
    }
)


def get_stage(name: str) -> Stage:
    """The stage of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in STAGES:
        raise ValueError(f"`stage` must be one of {tuple(STAGES)}, got {name!r}.")
    return STAGES[name]


def prepare_stage(
    model: nn.Module,
    name: str,
    starts: Mapping[str, str] | None = None,
    seed: int = 0,
    frozen: Sequence[str] = (),
) -> None:
    """Puts a model at the start of a stage: adapters at their starts, only the stage's parameters trainable.

    Args:
        model: A CLaRa model.
        name: The stage.
        starts: Overrides of the stage's `starts`: adapter to "kept", "fresh" (B = 0) or "compressor".
        seed: Seed of a fresh adapter.
        frozen: Adapters of the stage that do not train; with the compressor its memory tokens do not.

    Raises:
        ValueError: If the stage or a start is unknown, the model lacks one of the stage's adapters, or
            `frozen` names another adapter or leaves none to train.
    """
    stage = get_stage(name)
    missing = sorted({*stage.adapters, "compressor"} - set(adapter_names(model.decoder)))
    if missing:
        raise ValueError(f"Stage {name!r} needs the adapters {missing}, which this model lacks.")
    if set(frozen) >= set(stage.adapters) or not set(frozen) <= set(stage.adapters):
        raise ValueError(
            f"`frozen` must name some but not all of {stage.adapters} in stage {name!r}, got {list(frozen)}."
        )
    for adapter, start in {**stage.starts, **(starts or {})}.items():
        if start not in STARTS or adapter not in stage.adapters:
            raise ValueError(
                f"`starts` must map some of {stage.adapters} to one of {STARTS}, got {adapter!r}: {start!r}."
            )
        if start == "compressor":
            copy_adapter(model.decoder, "compressor", adapter)
        elif start == "fresh":
            reset_adapter(model.decoder, adapter, seed)

    model.set_trainable(
        [adapter for adapter in stage.adapters if adapter not in frozen],
        memory_tokens=stage.memory_tokens and "compressor" not in frozen,
        connector=stage.memory_tokens,
    )


def begin_stage(model: nn.Module, args: Any) -> bool:
    """`prepare_stage` as a configuration asks; returns whether retrieval alone trains."""
    ranks_only = args.stage == "end_to_end" and not args.generation_weight
    frozen = {*args.frozen, "generator"} if ranks_only else args.frozen
    prepare_stage(model, args.stage, args.starts, args.seed, sorted(frozen))
    return ranks_only


def reset_adapter(decoder: nn.Module, name: str, seed: int = 0) -> None:
    """Makes an adapter fresh again: A random, B = 0."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in tuner_layers(decoder):
            layer.reset_lora_parameters(name, init_lora_weights=True)


def adapter_gradient_norms(model: nn.Module) -> dict[str, float]:
    """Euclidean norm of each adapter's gradient, for those that have one; of all shards where sharded."""
    norms = {}
    for name in adapter_names(model.decoder):
        gradients = [p.grad for p in adapter_parameters(model.decoder, [name]) if p.grad is not None]
        if gradients:
            norms[name] = float(torch.linalg.vector_norm(torch.stack([_norm(g) for g in gradients])))
    return norms


def _norm(gradient: Tensor) -> Tensor:
    norm = gradient.float().norm()
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
