"""The three LoRA adapters of one frozen causal LM: add, wear for a block of code, save, load.

An adapter is worn, never left on: outside a `wearing` block no adapter is active and the decoder is the plain
base. PEFT's `set_adapter` is never called inside a step, since it flips `requires_grad` and drops gradients.
"""

import copy
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.utils.hub import cached_file

from .configuration_clara import ClaraConfig
from .merging_clara import forget, wear_layer

PEFT_PREFIX = "base_model.model."
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
MAX_RANK = 4096
# A name of layers; PEFT writes those of experts with a leading wildcard.
LAYER_NAME = re.compile(r"(\.\*\\\.)?\w+(\.\w+)*")
PLAIN_FIELDS = ("r", "lora_alpha", "lora_dropout", "target_modules", "rank_pattern", "alpha_pattern")
BESIDE_FIELDS = (
    "auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "init_lora_weights",
    "peft_type", "peft_version", "revision", "runtime_config", "target_parameters", "task_type", "use_rslora",
)  # fmt: skip


def tuner_layers(decoder: nn.Module) -> Iterator[BaseTunerLayer]:
    """The adapted layers of a decoder, each once, in its order, nested ones included.

    The adapters inside of them are left out: most of a decoder's modules are there, and adapters change hands
    several times in an answer, and in every layer with activation checkpointing.
    """
    waiting, seen = [decoder], set()
    while waiting:
        module = waiting.pop()
        if not isinstance(module, BaseTunerLayer):
            waiting.extend(reversed(list(module.children())))
        elif module not in seen:
            seen.add(module)
            yield module
            waiting.append(module.base_layer)


def worn_adapters(decoder: nn.Module) -> list[str]:
    """Names of the adapters active now; empty outside a `wearing` block."""
    layer = next(tuner_layers(decoder), None)
    return [] if layer is None else list(layer.active_adapters)


def _wear(decoder: nn.Module, names: list[str]) -> None:
    for layer in tuner_layers(decoder):
        wear_layer(layer, names)


@contextmanager
def wearing(decoder: nn.Module, *names: str) -> Iterator[None]:
    """Activates adapters for a block of code and restores what was worn before; touches no `requires_grad`.

    Raises:
        ValueError: If the decoder has no adapter of that name.
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


class CheckpointContexts:
    """`context_fn` for `torch.utils.checkpoint`: wears at recompute what was worn at forward.

    Without it the recomputation runs with whatever is worn in backward, and gradients are silently wrong. A
    deep copy of a model gets contexts of its own decoder.
    """

    def __init__(self, decoder: nn.Module) -> None:
        self.decoder = decoder

    def __call__(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """A context for the forward pass and one for its recomputation."""
        return nullcontext(), wearing(self.decoder, *worn_adapters(self.decoder))


def adapter_names(decoder: nn.Module) -> list[str]:
    """Names of the adapters a decoder has, worn or not."""
    return list(getattr(decoder, "peft_config", {}))


def has_experts(base: PretrainedConfig) -> bool:
    """Whether a base is a mixture of experts."""
    return any(getattr(base.get_text_config(), name, None) for name in EXPERTS)


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

    Its dropout is on or off as the decoder is in train or eval mode.

    Raises:
        ValueError: If the decoder has an adapter of that name, or PEFT cannot adapt its layers so.
    """
    if name in adapter_names(decoder):
        raise ValueError(f"The decoder already has an adapter named {name!r}.")
    before = worn_adapters(decoder)
    trainable = {parameter for parameter in decoder.parameters() if parameter.requires_grad}
    trainable_adapters = {p for p in adapter_parameters(decoder) if p in trainable}
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
    """Tensors of one adapter under PEFT's file keys.

    Args:
        decoder: The causal LM that has the adapter.
        name: The adapter.
        state: The decoder's state dict, if it was gathered elsewhere (sharded training).
    """
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

    Raises:
        ValueError: If a tensor is missing, extra or misshapen; nothing is copied then.
    """
    own = check_adapter_state(decoder, name, tensors, where)
    for key, tensor in own.items():
        tensor.copy_(tensors[key])
    forget(tuner_layers(decoder), [name])


def check_adapter_state(
    decoder: nn.Module, name: str, tensors: dict[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Returns the adapter's own tensors, if those given have the same keys and shapes.

    Raises:
        ValueError: If a tensor is missing, extra or misshapen.
    """
    own = adapter_state(decoder, name)
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    misshapen = [key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape]
    problems = {"missing": missing, "extra": extra, "misshapen": sorted(misshapen)}
    told = [f"{len(keys)} {what} (first: {keys[0]})" for what, keys in problems.items() if keys]
    if told:
        raise ValueError(f"Adapter {name!r} does not fit {where}: {', '.join(told)} tensors.")
    return own


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
    tensors = {
        key: t.detach().to("cpu", dtype).contiguous()
        for key, t in adapter_state(decoder, name, state).items()
    }
    save_file(tensors, os.path.join(folder, WEIGHTS_FILE), metadata={"format": "pt"})
    peft_config = decoder.peft_config[name]
    written = copy.copy(peft_config)
    written.inference_mode, written.base_model_name_or_path = True, base
    written.save_pretrained(folder)


def load_adapter(decoder: nn.Module, path: str, name: str, **hub_kwargs: object) -> None:
    """Adds an adapter from the sub-folder `name` of a local folder or Hub repository, strictly.

    Args:
        decoder: The causal LM that will wear it.
        path: Folder or repository id.
        name: The adapter and its sub-folder.
        **hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only` for the Hub.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the file is damaged, or a tensor is missing, extra or misshapen.
    """
    files = {}
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        found = cached_file(
            path, file, subfolder=name, _raise_exceptions_for_missing_entries=False, **hub_kwargs
        )
        if found is None:
            raise FileNotFoundError(f"{path} has no {name}/{file}: the checkpoint lacks its {name} adapter.")
        files[file] = found
    try:
        tensors = load_file(files[WEIGHTS_FILE])
    except SafetensorError as error:
        raise ValueError(f"{files[WEIGHTS_FILE]} is damaged or cut short: {error}") from error
    peft_config = PeftConfig.from_pretrained(os.path.dirname(files[CONFIG_FILE]))
    check_plain(peft_config, files[CONFIG_FILE])
    add_adapter(decoder, name, peft_config)
    load_adapter_state(decoder, name, tensors, where=files[WEIGHTS_FILE])


def check_plain(peft_config: PeftConfig, where: str) -> None:
    """Checks that an adapter is a plain LoRA, as we write it: names of layers, ranks, scale, dropout.

    Raises:
        ValueError: Naming the first field that is not.
    """
    rule = f"must be that of a plain LoRA ({', '.join(PLAIN_FIELDS)}; layers by name)"
    if type(peft_config) is not LoraConfig:
        raise ValueError(f"{where} {rule}, got peft_type {peft_config.peft_type!r}.")
    plain, given = LoraConfig().to_dict(), peft_config.to_dict()
    for name, value in given.items():
        if name not in (*PLAIN_FIELDS, *BESIDE_FIELDS) and value != plain.get(name):
            raise ValueError(f"{where} {rule}, got `{name}` {value!r}.")
    ranks = {"r": peft_config.r, **peft_config.rank_pattern}
    for name, rank in ranks.items():
        if type(rank) is not int or not 1 <= rank <= MAX_RANK:
            raise ValueError(f"{where}: the rank of `{name}` must be from 1 to {MAX_RANK}, got {rank!r}.")
    modules = peft_config.target_modules
    names = [*(modules if not isinstance(modules, str) else []), *peft_config.rank_pattern]
    odd = [name for name in [*names, *peft_config.alpha_pattern] if not LAYER_NAME.fullmatch(name)]
    if (isinstance(modules, str) and modules != "all-linear") or odd or modules is None:
        raise ValueError(f"{where} {rule}, got `target_modules` {odd or modules!r}.")
