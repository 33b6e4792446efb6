"""A checkpoint for vLLM: the base with the generator merged into it, and what makes its prompt embeddings."""

import copy
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from ..adapters_clara import tuner_layers
from ..checkpoint_clara import base_state

CLIENT = "clara"


def merged_generator(model: Any) -> Any:
    """A plain causal LM that answers as the decoder wearing its generator; `model` is left as it was.

    Args:
        model: A `ClaraForRetrievalGeneration`, not quantised.

    Returns:
        A model of the base's own class, without adapters, in the base's dtype, on the CPU.

    Raises:
        ValueError: If the base is quantised, so that nothing can be merged into it exactly.
    """
    if getattr(model, "is_quantized", False):
        raise ValueError(
            "The base is quantised, and merging would round the generator: load it without quantisation."
        )
    decoder = copy.deepcopy(model.decoder).to("cpu")
    for layer in tuner_layers(decoder):
        layer.merge(safe_merge=True, adapter_names=["generator"])
    plain = AutoModelForCausalLM.from_config(model.config.text_config, dtype=model.dtype)
    plain.load_state_dict(base_state(decoder.state_dict()), strict=True)
    plain.generation_config = copy.deepcopy(model.generation_config)
    return plain.eval()


def export_vllm(model: Any, folder: Path) -> None:
    """Writes a folder for `vllm serve`, in it a folder `clara` for `ClaraVllmClient`.

    The client's half is an ordinary checkpoint (adapters, memory tokens, processor); the base's weights are
    in it only if its config does not name where else they lie.

    Args:
        model: A `ClaraForRetrievalGeneration` with its processor, not quantised.
        folder: New or empty.

    Raises:
        FileExistsError: If the folder holds something.
        ValueError: If the base is quantised.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"`--output` {folder} exists and is not empty: name a new folder.")
    plain = merged_generator(model)
    plain.save_pretrained(folder)
    model.processor.tokenizer.save_pretrained(folder)
    named = bool(model.config.base_model_name_or_path) and not model.config.base_is_changed
    model.save_pretrained(folder / CLIENT, save_base=not named)
