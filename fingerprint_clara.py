"""The fingerprint of what makes memories: base, compressor, memory tokens and pooling."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .adapters_clara import adapter_parameters, tuner_layers

# Float16 holds every bfloat16 value of half this size or more; smaller ones it rounds, but never up to this.
SMALLEST = 2.0**-16
# Fields of the base's configuration that change no state: names, files, generation, kind of attention.
BESIDE_THE_MATHS = {
    "_name_or_path", "architectures", "attn_implementation", "bos_token_id", "dtype", "eos_token_id",
    "gradient_checkpointing", "id2label", "initializer_range", "label2id", "model_type", "output_attentions",
    "output_hidden_states", "output_router_logits", "pad_token_id", "problem_type", "quantization_config",
    "return_dict", "router_aux_loss_coef", "task_specific_params", "tie_word_embeddings", "torch_dtype",
    "transformers_version", "use_cache",
}  # fmt: skip
# Elements that are summed at once.
CHUNK = 2**22
# Fields that change what a memory is; only values other than the default count.
MEMORY_FIELDS = ("text_prefix", "text_suffix", "encoder_length", "encoder_positions", "encoder_attention")
_known: WeakKeyDictionary = WeakKeyDictionary()


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 over what decides a memory, the same in every dtype and on every device.

    The compressor with its scaling, the memory tokens, the base and its configuration count in full, rounded
    to bfloat16 and with values below 2^-16 as zero; of each base weight its name, shape and two sums that
    every value enters. The query reasoner and the generator do not count: they may change under a store. A
    quantised base is another base. Weights offloaded to disk count by name and shape alone.

    Float16 agrees where the files hold bfloat16 values, as those of released bases and of `final_dtype:
    bfloat16` do. Float32 files loaded in float16 are rounded twice, to other values: another base.

    Args:
        model: A model with a compressor.

    Returns:
        64 hexadecimal digits, computed once for a state of the compressor and its configuration.
    """
    own = [p for name, p in model.own_parameters().items() if name == "memory_tokens"]
    compressor = adapter_parameters(model.decoder, ["compressor"]) + own
    head = _head(model.config) + repr(_scalings(model.decoder))
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
    base = config.text_config.to_diff_dict()
    maths = {name: base[name] for name in sorted(base.keys() - BESIDE_THE_MATHS) if not name.startswith("_")}
    return repr(head) + (repr(changed) if changed else "") + json.dumps(maths, sort_keys=True, default=str)


def _scalings(decoder: nn.Module) -> list[float]:
    """What each adapted layer multiplies the compressor's product by (alpha over rank, as a rule)."""
    return [layer.scaling["compressor"] for layer in tuner_layers(decoder) if "compressor" in layer.scaling]


@torch.no_grad()
def _digest(model: nn.Module, head: str, compressor: list[Tensor]) -> str:
    digest = hashlib.sha256(head.encode())
    for name, parameter in _base_parameters(model.decoder):
        known = "" if parameter.device.type == "meta" else _sums(parameter.detach())
        digest.update(f"{name}{tuple(parameter.shape)}{known}\n".encode())
    for tensor in compressor:
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


def _sums(weight: Tensor) -> tuple[int, int]:
    """Sums of the bits of all values, plain and by place: whole numbers, so the same on every device."""
    flat, plain, placed = weight.reshape(-1), 0, 0
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK]
        bits = (_rounded(part).view(torch.int16) if part.is_floating_point() else part).int()
        places = torch.arange(start, start + len(part), device=part.device).remainder_(32749).int()
        plain += int(bits.sum())
        placed += int((bits * places).sum())
    return plain, placed
