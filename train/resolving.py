"""The model that a trainer was given: a model, a checkpoint's name, or the name of a base for a new one."""

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers.utils.hub import cached_file

from ..adapters_clara import adapter_parameters
from ..checkpoint_clara import EMBEDDED_NAMES
from ..configuration_clara import FIELDS, ClaraConfig
from ..modeling_clara import ClaraForRetrievalGeneration

LORA_FIELDS = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
}


def resolve_model(
    model: Any,
    fields: Mapping[str, Any] | None = None,
    peft_config: Any = None,
    quantization_config: Any = None,
) -> Any:
    """The model itself, or the one that a name stands for.

    Args:
        model: A CLaRa model; or the folder or Hub id of a CLaRa checkpoint or of a causal LM, or
            "smollm2-135m", for a new model.
        fields: Fields of `ClaraConfig` and arguments of `from_pretrained` (dtype, device_map, …).
        peft_config: A `peft.LoraConfig` for the three adapters of a new model.
        quantization_config: As in `from_pretrained`, such as a `BitsAndBytesConfig`.

    Raises:
        ValueError: If a model is given with what only its loading could use, or `peft_config` for adapters
            that are there already.
    """
    kwargs = dict(fields or {})
    if quantization_config is not None:
        kwargs["quantization_config"] = quantization_config
    if not isinstance(model, (str, os.PathLike)):
        if kwargs or peft_config is not None:
            given = ["peft_config"] if peft_config is not None else sorted(kwargs)
            raise ValueError(
                f"{given} are used when a model is loaded, but `model` is one already: give a name, or pass "
                "them to `from_base` or `from_pretrained`."
            )
        return model
    name = os.path.expanduser(os.fspath(model))
    if name in EMBEDDED_NAMES or not is_checkpoint(name):
        return ClaraForRetrievalGeneration.from_base(name, **{**lora_fields(peft_config), **kwargs})
    if peft_config is not None:
        raise ValueError(
            f"`peft_config` is for a new model, but {name} is a checkpoint with its adapters: leave it out."
        )
    return ClaraForRetrievalGeneration.from_pretrained(name, **kwargs)


def cast_adapters(model: Any, dtype: torch.dtype) -> None:
    """Casts the adapters in place: over a quantised base they are made in float32."""
    for parameter in adapter_parameters(model.decoder):
        parameter.data = parameter.data.to(dtype)


def is_checkpoint(name: str) -> bool:
    """Whether a folder or Hub id holds a CLaRa checkpoint, and not a base alone.

    Raises:
        OSError: If there is no such folder or repository.
    """
    with open(cached_file(name, "config.json"), encoding="utf-8") as file:
        return json.load(file).get("model_type") == ClaraConfig.model_type


def lora_fields(peft_config: Any) -> dict[str, Any]:
    """The fields of `ClaraConfig` that a LoRA configuration stands for.

    Raises:
        ValueError: If it is no plain LoRA configuration.
    """
    if peft_config is None:
        return {}
    plain = type(peft_config)()
    told = {
        name: value
        for name, value in peft_config.to_dict().items()
        if name not in (*LORA_FIELDS, *PATTERNS, *BESIDE) and value != plain.to_dict().get(name)
    }
    if str(getattr(peft_config.peft_type, "value", peft_config.peft_type)) != "LORA" or told:
        raise ValueError(
            f"`peft_config` must be a plain `LoraConfig` ({', '.join(LORA_FIELDS)}, "
            f"{', '.join(PATTERNS)}), got {type(peft_config).__name__} with {told}."
        )
    found = {own: getattr(peft_config, name) for name, own in LORA_FIELDS.items()}
    modules = found["lora_target_modules"]
    if modules is None:
        del found["lora_target_modules"]
    elif not isinstance(modules, str):
        found["lora_target_modules"] = sorted(modules)
    found |= {
        f"lora_{name}": dict(getattr(peft_config, name)) for name in PATTERNS if getattr(peft_config, name)
    }
    return {name: value for name, value in found.items() if name in FIELDS}


PATTERNS = ("rank_pattern", "alpha_pattern")
BESIDE = (
    "task_type",
    "inference_mode",
    "base_model_name_or_path",
    "revision",
    "peft_version",
    "auto_mapping",
)
