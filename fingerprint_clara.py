"""The fingerprint of what makes memories: base, compressor, memory tokens and pooling."""

import hashlib
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .adapters_clara import adapter_parameters

SAMPLES = 64
# Float16 holds every bfloat16 value of half this size or more; smaller ones it rounds, but never up to this.
SMALLEST = 2.0**-16
# Fields that change what a memory is; only values other than the default count.
MEMORY_FIELDS = ("text_prefix", "text_suffix", "encoder_length", "encoder_positions", "encoder_attention")
_known: WeakKeyDictionary = WeakKeyDictionary()


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 over what decides a memory, the same in every dtype and on every device.

    The compressor and memory tokens count in full, rounded to bfloat16 and with values below 2^-16 as zero;
    of each base weight count its name, shape and 64 evenly spaced values. The query reasoner and the
    generator do not count: they may change under a store. A quantised base is another base. Weights offloaded
    to disk count by name and shape alone.

    Float16 agrees where the files hold bfloat16 values, as those of released bases and of `final_dtype:
    bfloat16` do. Float32 files loaded in float16 are rounded twice, to other values: another base.

    Args:
        model: A model with a compressor.

    Returns:
        64 hexadecimal digits, computed once for a state of the compressor and its configuration.
    """
    own = [p for name, p in model.own_parameters().items() if name == "memory_tokens"]
    compressor = adapter_parameters(model.decoder, ["compressor"]) + own
    head = _head(model.config)
    state = (head, *((p.data_ptr(), 0 if p.is_inference() else p._version) for p in compressor))
    known = _known.get(model)
    if known is None or known[0] != state:
        known = (state, _digest(model, head, compressor))
        _known[model] = known
    return known[1]


def _head(config: Any) -> str:
    """The fields of the configuration that change a memory."""
    head = (config.pooling, config.num_memory_tokens, config.doc_max_length, config.text_config.model_type)
    changed = {
        name: getattr(config, name)
        for name in MEMORY_FIELDS
        if getattr(config, name) != getattr(type(config), name)
    }
    return repr(head) + (repr(changed) if changed else "")


@torch.no_grad()
def _digest(model: nn.Module, head: str, compressor: list[Tensor]) -> str:
    digest = hashlib.sha256(head.encode())
    names, samples = [], []
    for name, parameter in _base_parameters(model.decoder):
        names.append(f"{name}{tuple(parameter.shape)}")
        if parameter.device.type != "meta":
            samples.append(_sample(parameter))
    digest.update("\n".join(names).encode())
    for tensor in [*samples, *compressor]:
        digest.update(_rounded(tensor.detach()).cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _rounded(values: Tensor) -> Tensor:
    """The values in bfloat16, with zeros where float16 could not hold them exactly."""
    rounded = values.to(torch.bfloat16)
    return rounded.masked_fill(rounded.abs() < SMALLEST, 0.0)


def _base_parameters(decoder: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in sorted(decoder.named_parameters()):
        if ".lora_" not in name:
            yield name.replace("base_layer.", ""), parameter


def _sample(parameter: Tensor) -> Tensor:
    flat = parameter.detach().reshape(-1)
    places = torch.linspace(0, len(flat) - 1, min(SAMPLES, len(flat)), dtype=torch.float64).round().long()
    return flat[places.to(flat.device)].float()
