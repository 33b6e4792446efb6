"""The three LoRA adapters of one frozen causal LM: add, wear for a block of code, save, load.

An adapter is worn, never left on: outside a `wearing` block no adapter is active and the decoder is the plain
base. PEFT's `set_adapter` is never called inside a step, since it flips `requires_grad` and drops gradients.
"""

import copy
import hashlib
import json
import os
import re
import threading
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from .configuration_clara import ClaraConfig

# Attributes of an adapted layer: its merged weights by adapter, the states of the adapters they were made of,
# and its own weight while another lies there.
MERGED, VERSIONS, OWN = "clara_merged", "clara_merged_versions", "clara_own_weight"
# The greatest bfloat16 below 2^-16. Float16 holds every larger one; others it rounds, but never up to 2^-16.
BELOW = 2.0**-16 - 2.0**-24
# Fields of the base's configuration that change no state: names, files, generation, kind of attention.
BESIDE_THE_MATHS = {
    "_name_or_path", "architectures", "attn_implementation", "bos_token_id", "dtype", "eos_token_id",
    "gradient_checkpointing", "id2label", "initializer_range", "label2id", "model_type", "output_attentions",
    "output_hidden_states", "output_router_logits", "pad_token_id", "problem_type", "quantization_config",
    "return_dict", "router_aux_loss_coef", "task_specific_params", "tie_word_embeddings", "torch_dtype",
    "transformers_version", "use_cache",
}  # fmt: skip
PERIOD = 32749  # a prime: the place of a value counts modulo this
CHUNK = 64 * PERIOD  # values that are summed at once
# Fields that change what a memory is; only values other than the default count.
MEMORY_FIELDS = ("text_prefix", "text_suffix", "encoder_length", "encoder_positions", "encoder_attention")
_known: WeakKeyDictionary = WeakKeyDictionary()

PEFT_PREFIX = "base_model.model."
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
MAX_RANK = 4096
LAYER_NAME = re.compile(r"(\.\*\\\.)?\w+(\.\w+)*")  # PEFT writes those of experts with a leading wildcard
PLAIN_FIELDS = ("r", "lora_alpha", "lora_dropout", "target_modules", "rank_pattern", "alpha_pattern")
PLAIN = f"must be that of a plain LoRA ({', '.join(PLAIN_FIELDS)}; layers by name)"
BESIDE_FIELDS = (
    "auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "peft_type",
    "peft_version", "revision", "runtime_config", "target_parameters", "task_type", "use_rslora",
)  # fmt: skip


def every_module(model: nn.Module, into_adapters: bool = True) -> Iterator[nn.Module]:
    """As `model.modules()`, without building names: three times as fast, and every answer walks twice.

    The adapters inside of adapted layers may be left out: most of a decoder's modules are there, and adapters
    change hands several times in an answer, and in every layer with activation checkpointing.
    """
    waiting, seen = [model], {None}
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            yield module
            plain = into_adapters or not isinstance(module, BaseTunerLayer)
            waiting.extend(reversed(module._modules.values()) if plain else [module.base_layer])


def tuner_layers(decoder: nn.Module) -> Iterator[BaseTunerLayer]:
    """The adapted layers of a decoder, each once, in its order, nested ones included."""
    return (found for found in every_module(decoder, False) if isinstance(found, BaseTunerLayer))


def worn_adapters(decoder: nn.Module) -> list[str]:
    """Names of the adapters active now; empty outside a `wearing` block."""
    layer = next(tuner_layers(decoder), None)
    return [] if layer is None else list(layer.active_adapters)


def _wear(decoder: nn.Module, names: list[str]) -> None:
    """Activates adapters, merged in layers with a copy where nothing is to be differentiated.

    A copy of an adapter that has changed in the meantime is made anew. Raises a RuntimeError if the model was
    moved or cast since the adapter was merged.
    """
    for layer in tuner_layers(decoder):
        own = layer.__dict__.pop(OWN, None)
        if own is not None:
            layer.base_layer.weight.data = own
            layer.merged_adapters.clear()
        layer._active_adapter = list(names)
        merged = layer.__dict__.get(MERGED, ())
        if torch.is_grad_enabled() or layer.training or len(names) != 1 or names[0] not in merged:
            continue
        name, weight, copy = names[0], layer.base_layer.weight, merged[names[0]]
        if (copy.device, copy.dtype) != (weight.device, weight.dtype):
            raise RuntimeError(
                f"The adapter {name!r} was merged on {copy.device} in {copy.dtype}, the model is on "
                f"{weight.device} in {weight.dtype} now: call `merge_adapters` again."
            )
        if layer.__dict__[VERSIONS][name] != _adapter_version(layer, name):
            copy = _make_copy(layer, name)
        layer.__dict__[OWN] = weight.data
        weight.data = copy
        layer.merged_adapters.append(name)


@contextmanager
def wearing(decoder: nn.Module, *names: str) -> Iterator[None]:
    """Activates adapters for a block of code and restores what was worn before; touches no `requires_grad`.

    Raises a ValueError if the decoder has no adapter of that name.
    """
    have = adapter_names(decoder)
    missing = [name for name in names if name not in have]
    if missing:
        raise ValueError(f"The decoder has no adapter {missing}, only {have}: add or load it first.")
    before = worn_adapters(decoder)
    _wear(decoder, list(names))
    try:
        yield
    finally:
        _wear(decoder, before)


def checkpoint_contexts(decoder: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """`context_fn` for `torch.utils.checkpoint`: wears at recompute what was worn at forward.

    Without it the recomputation runs with whatever is worn in backward, and gradients are silently wrong. The
    decoder is bound by `functools.partial`, so that a deep copy of a model gets contexts of its own decoder.
    """
    return nullcontext(), wearing(decoder, *worn_adapters(decoder))


def adapter_names(decoder: nn.Module) -> list[str]:
    """Names of the adapters a decoder has, worn or not."""
    return list(getattr(decoder, "peft_config", {}))


def lora_config(config: ClaraConfig) -> LoraConfig:
    """PEFT's configuration of one adapter."""
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_target_modules,
        rank_pattern=config.lora_rank_pattern or {},
        alpha_pattern=config.lora_alpha_pattern or {},
        task_type="CAUSAL_LM",
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.base_model_revision,
    )


def add_adapter(decoder: nn.Module, name: str, peft_config: PeftConfig) -> None:
    """Adds a fresh adapter (B = 0: it changes nothing yet), leaves worn what was worn, freezes the base.

    Its dropout is on or off as the decoder is in train or eval mode. Raises a ValueError if the decoder has
    an adapter of that name, or PEFT cannot adapt its layers so.
    """
    if name in adapter_names(decoder):
        raise ValueError(f"The decoder already has an adapter named {name!r}.")
    before = worn_adapters(decoder)
    trainable_adapters = [p for p in adapter_parameters(decoder) if p.requires_grad]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        try:
            inject_adapter_in_model(peft_config, decoder, adapter_name=name)
        except ValueError as error:
            if "lora_dropout" not in str(error):
                raise
            raise ValueError(
                "`lora_dropout` must be 0 for a base whose experts are single tensors (mixture of experts), "
                f"got {peft_config.lora_dropout}: give lora_dropout=0."
            ) from error
    for layer in tuner_layers(decoder):
        layer.train(layer.get_base_layer().training)
    _wear(decoder, before)
    decoder.requires_grad_(False)
    for parameter in [*trainable_adapters, *adapter_parameters(decoder, [name])]:
        parameter.requires_grad_(True)


def adapter_parameters(decoder: nn.Module, names: Iterable[str] | None = None) -> list[nn.Parameter]:
    """Parameters of the named adapters, of all of them by default."""
    wanted = set(adapter_names(decoder) if names is None else names)
    found = []
    for layer in tuner_layers(decoder):
        for attribute in layer.adapter_layer_names:
            for name, module in getattr(layer, attribute).items():
                if name in wanted:
                    found.extend([module] if isinstance(module, nn.Parameter) else module.parameters())
    return found


def adapter_state(decoder: nn.Module, name: str, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Tensors of one adapter under PEFT's file keys; `state`: the decoder's, if it was gathered elsewhere."""
    tensors = get_peft_model_state_dict(
        decoder, state_dict=state, adapter_name=name, save_embedding_layers=False
    )
    return {PEFT_PREFIX + key: tensor for key, tensor in tensors.items()}


def copy_adapter(decoder: nn.Module, source: str, target: str) -> None:
    """Copies one adapter's tensors into another (the query reasoner starts as the compressor)."""
    load_adapter_state(decoder, target, adapter_state(decoder, source), where=f"the adapter {source!r}")


@torch.no_grad()
def load_adapter_state(decoder: nn.Module, name: str, tensors: dict[str, Tensor], where: str) -> None:
    """Copies tensors into an adapter; keys and shapes must match exactly.

    Raises a ValueError if one is missing, extra or misshapen; nothing is copied then.
    """
    own = adapter_state(decoder, name)
    misshapen = {key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape}
    odd = (own.keys() - tensors.keys(), tensors.keys() - own.keys(), misshapen)
    check_fit(f"Adapter {name!r} does not fit {where}", *odd)
    for key, tensor in own.items():
        tensor.copy_(tensors[key])
    forget(tuner_layers(decoder), [name])


def check_fit(problem: str, missing: Iterable, extra: Iterable, misshapen: Iterable) -> None:
    """Raises a ValueError that counts the tensors which are missing, extra or misshapen, if any is."""
    odd = {"missing": sorted(missing), "extra": sorted(extra), "misshapen": sorted(misshapen)}
    told = [f"{len(keys)} {what} (first: {keys[0]})" for what, keys in odd.items() if keys]
    if told:
        raise ValueError(f"{problem}: {', '.join(told)} tensors.")


def save_adapter(
    decoder: nn.Module,
    name: str,
    folder: str,
    state: dict[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    base: str | None = None,
) -> None:
    """Writes one adapter as a plain PEFT folder (safetensors and adapter_config.json).

    The base is called `base` there, and not by the folder it was read from.
    """
    os.makedirs(folder, exist_ok=True)
    own = adapter_state(decoder, name, state)
    tensors = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in own.items()}
    save_file(tensors, os.path.join(folder, WEIGHTS_FILE), metadata={"format": "pt"})
    written = copy.copy(decoder.peft_config[name])
    written.inference_mode, written.base_model_name_or_path = True, base
    written.save_pretrained(folder)


def load_adapter(decoder: nn.Module, path: str, name: str, **hub_kwargs: object) -> None:
    """Adds an adapter from the sub-folder `name` of a local folder or Hub repository, strictly.

    Raises a FileNotFoundError if a file is missing; a ValueError if the file is damaged, or a tensor is
    missing, extra or misshapen.
    """
    files, optional = {}, {"_raise_exceptions_for_missing_entries": False, **hub_kwargs}
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        found = cached_file(path, file, subfolder=name, **optional)
        if found is None:
            raise FileNotFoundError(f"{path} has no {name}/{file}: the checkpoint lacks its {name} adapter.")
        files[file] = found
    try:
        tensors = load_file(files[WEIGHTS_FILE])
    except SafetensorError as error:
        raise ValueError(f"{files[WEIGHTS_FILE]} is damaged or cut short: {error}") from error
    try:
        peft_config = PeftConfig.from_pretrained(os.path.dirname(files[CONFIG_FILE]))
        check_plain(peft_config, files[CONFIG_FILE])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{files[CONFIG_FILE]} {PLAIN}, got {type(error).__name__}: {error}") from error
    add_adapter(decoder, name, peft_config)
    load_adapter_state(decoder, name, tensors, where=files[WEIGHTS_FILE])


def check_plain(peft_config: PeftConfig, where: str) -> None:
    """Raises a ValueError unless an adapter is a plain LoRA, as we write it: layers by name, ranks, scale."""
    if type(peft_config) is not LoraConfig:
        raise ValueError(f"{where} {PLAIN}, got peft_type {peft_config.peft_type!r}.")
    plain, given = LoraConfig().to_dict(), peft_config.to_dict()
    for name, value in given.items():
        if name not in (*PLAIN_FIELDS, *BESIDE_FIELDS) and value != plain.get(name):
            raise ValueError(f"{where} {PLAIN}, got `{name}` {value!r}.")
    ranks = {"r": peft_config.r, **peft_config.rank_pattern}
    for name, rank in ranks.items():
        if type(rank) is not int or not 1 <= rank <= MAX_RANK:
            raise ValueError(f"{where}: the rank of `{name}` must be from 1 to {MAX_RANK}, got {rank!r}.")
    scales = [peft_config.lora_alpha, peft_config.lora_dropout, *peft_config.alpha_pattern.values()]
    if not all(0 <= scale < float("inf") for scale in scales):
        raise ValueError(f"{where}: alphas and dropout must be numbers from 0 on, got {scales}.")
    modules = peft_config.target_modules
    names = [*(modules if not isinstance(modules, str) else []), *peft_config.rank_pattern]
    odd = [name for name in [*names, *peft_config.alpha_pattern] if not LAYER_NAME.fullmatch(name)]
    if (isinstance(modules, str) and modules != "all-linear") or odd or not modules:
        raise ValueError(f"{where} {PLAIN}, got `target_modules` {odd or modules!r}.")


def merge(layers: Iterable[BaseTunerLayer], names: Iterable[str]) -> None:
    """Makes merged copies of the layers' weights, which wearing those adapters uses until they are forgotten.

    A worn adapter adds two small products and a sum to every adapted layer; a merged one costs nothing: the
    layer computes with W + s B A, rounded to the weight's dtype. The weight itself is never changed. Raises a
    ValueError if a layer is no plain linear one with its weight at hand (quantised, offloaded, expert
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
    return (layer.scaling[name], *_versions([layer.lora_A[name].weight, layer.lora_B[name].weight]))


def _versions(tensors: Iterable[Tensor]) -> Iterator[tuple[int, int]]:
    """Where each tensor lies and how often it was written, by which a change is seen."""
    return ((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)


@torch.no_grad()
def merged_weight(layer: BaseTunerLayer, name: str) -> Tensor:
    """W + s B A of one adapter, (out, in), computed in float32, in the weight's dtype and place."""
    weight = layer.__dict__.get(OWN, layer.base_layer.weight)
    delta = layer.lora_B[name].weight.float() @ layer.lora_A[name].weight.float()
    return (weight.float() + layer.scaling[name] * delta.to(weight.device)).to(weight.dtype)


def forget(layers: Iterable[BaseTunerLayer], names: Collection[str] | None = None) -> None:
    """Drops the merged copies of the named adapters, of all of them by default."""
    for layer in layers:
        kept = layer.__dict__.pop(MERGED, {})
        left = {} if names is None else {name: kept[name] for name in kept.keys() - set(names)}
        if left:
            layer.__dict__[MERGED] = left


@torch.no_grad()
def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 over what decides a memory, the same in every dtype and on every device.

    The compressor with its scaling, the memory tokens, the base and its configuration count in full, rounded
    to bfloat16 and with values below 2^-16 as zero; of each base weight its name, shape and two sums that
    every value enters. The query reasoner and the generator do not count: they may change under a store. A
    quantised base is another base. Weights offloaded to disk count by name and shape alone.

    Float16 agrees where the files hold bfloat16 values; float32 files are rounded twice: another base.

    64 hexadecimal digits, computed once for a state of the compressor and its configuration.
    """
    own = [p for name, p in model.own_parameters().items() if name == "memory_tokens"]
    compressor = adapter_parameters(model.decoder, ["compressor"]) + own
    scalings = [layer.scaling.get("compressor") for layer in tuner_layers(model.decoder)]
    head = _head(model.config) + repr([scaling for scaling in scalings if scaling is not None])
    state = (head, *_versions(compressor))
    if _known.get(model, ("",))[0] != state:
        digest = hashlib.sha256(head.encode())
        with model.lock, wearing(model.decoder):  # merged weights, worn by another thread, are not the base's
            for name, parameter in sorted(model.decoder.named_parameters()):
                if ".lora_" not in name:
                    known = "" if parameter.device.type == "meta" else _sums(parameter.detach())
                    line = f"{name.replace('base_layer.', '')}{tuple(parameter.shape)}{known}\n"
                    digest.update(line.encode())
        for tensor in compressor:
            digest.update(_rounded(tensor.detach()).cpu().contiguous().view(torch.uint8).numpy())
        _known[model] = (state, digest.hexdigest())
    return _known[model][1]


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


def _rounded(values: Tensor) -> Tensor:
    """The values in bfloat16, with zeros up to `BELOW`, where float16 could not hold them exactly."""
    return nn.functional.hardshrink(values.to(torch.bfloat16), BELOW)


def _sums(weight: Tensor) -> tuple[int, int]:
    """Sums of the bits of all values, plain and by place: whole numbers, so the same on every device."""
    columns = torch.zeros(PERIOD, dtype=torch.long, device=weight.device)
    for part in weight.reshape(-1).split(CHUNK):
        bits = _rounded(part).view(torch.int16) if part.is_floating_point() else part
        columns += nn.functional.pad(bits, (0, -len(bits) % PERIOD)).view(-1, PERIOD).sum(0)
    return int(columns.sum()), int((columns * torch.arange(PERIOD, device=weight.device)).sum())


class ModelLock(type(threading.RLock())):
    """One re-entrant lock a model, since wearing an adapter changes shared layers; a copy gets its own."""

    def __reduce__(self) -> tuple:
        return ModelLock, ()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode (no dropout) for a block of code; each module is then put back into the mode it was in."""
    training = [module for module in every_module(model) if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
