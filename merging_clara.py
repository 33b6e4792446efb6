"""Adapters merged into copies of the weights that they adapt: faster inference for more memory.

A worn adapter adds two small products and a sum to every adapted layer. A merged one costs nothing: while it
is worn, the layer computes with a copy of its weight, W + s B A, rounded to the weight's dtype. The weight
itself is never changed.
"""

from collections.abc import Iterable

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

# Attributes of an adapted layer: its merged weights by adapter, the states of the adapters they were made of,
# and its own weight while another lies there.
MERGED, VERSIONS, OWN = "clara_merged", "clara_merged_versions", "clara_own_weight"


def merge(layers: Iterable[BaseTunerLayer], names: Iterable[str]) -> None:
    """Makes merged copies of the layers' weights; until they are forgotten, wearing those adapters uses them.

    Args:
        layers: Adapted layers.
        names: Adapters that they have.

    Raises:
        ValueError: If a layer is no plain linear one with its weight at hand (quantised, offloaded, expert
            weights); nothing is merged then.
    """
    layers, names = list(layers), list(names)
    for layer in layers:
        base = layer.base_layer
        plain = isinstance(base, nn.Linear) and base.weight.is_floating_point() and not base.weight.is_meta
        if not plain:
            raise ValueError(
                f"Adapters can be merged into plain linear layers only, got {type(base).__name__} with a "
                f"weight of {base.weight.dtype if hasattr(base, 'weight') else 'its own kind'}: leave "
                "`merge_adapters` out for this base."
            )
    for layer in layers:
        for name in names:
            _make_copy(layer, name)


def _make_copy(layer: BaseTunerLayer, name: str) -> Tensor:
    """Keeps a merged copy of one adapter, with the state of the adapter that it is made from."""
    layer.__dict__.setdefault(VERSIONS, {})[name] = _adapter_version(layer, name)
    layer.__dict__.setdefault(MERGED, {})[name] = merged_weight(layer, name)
    return layer.__dict__[MERGED][name]


def _adapter_version(layer: BaseTunerLayer, name: str) -> tuple:
    weights = (layer.lora_A[name].weight, layer.lora_B[name].weight)
    counted = ((w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights)
    return (layer.scaling[name], *counted)


@torch.no_grad()
def merged_weight(layer: BaseTunerLayer, name: str) -> Tensor:
    """W + s B A of one adapter, (out, in), computed in float32, in the weight's dtype and place."""
    weight = layer.__dict__.get(OWN, layer.base_layer.weight)
    delta = layer.lora_B[name].weight.float() @ layer.lora_A[name].weight.float()
    return (weight.float() + layer.scaling[name] * delta.to(weight.device)).to(weight.dtype)


def forget(layers: Iterable[BaseTunerLayer], names: Iterable[str] | None = None) -> None:
    """Drops the merged copies of the named adapters, of all of them by default."""
    gone = None if names is None else set(names)
    for layer in layers:
        if MERGED in layer.__dict__:
            kept = layer.__dict__.pop(MERGED)
            left = {} if gone is None else {name: kept[name] for name in kept.keys() - gone}
            if left:
                layer.__dict__[MERGED] = left


def wear_layer(layer: BaseTunerLayer, names: list[str]) -> None:
    """Activates adapters in one layer, merged where there is a copy and nothing is to be differentiated.

    A copy of an adapter that has changed in the meantime is made anew.

    Raises:
        RuntimeError: If the model was moved or cast since the adapter was merged.
    """
    own = layer.__dict__.pop(OWN, None)
    if own is not None:
        layer.base_layer.weight.data = own
        layer.merged_adapters.clear()
    layer._active_adapter = list(names)
    merged = layer.__dict__.get(MERGED)
    if not merged or torch.is_grad_enabled() or layer.training or len(names) != 1 or names[0] not in merged:
        return
    weight, copy = layer.base_layer.weight, merged[names[0]]
    if (copy.device, copy.dtype) != (weight.device, weight.dtype):
        raise RuntimeError(
            f"The adapter {names[0]!r} was merged on {copy.device} in {copy.dtype}, the model is on "
            f"{weight.device} in {weight.dtype} now: call `merge_adapters` again."
        )
    if layer.__dict__[VERSIONS][names[0]] != _adapter_version(layer, names[0]):
        copy = _make_copy(layer, names[0])
    layer.__dict__[OWN] = weight.data
    weight.data = copy
    layer.merged_adapters.append(names[0])
