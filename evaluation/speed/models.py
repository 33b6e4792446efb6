"""Models of a preset's shape with random weights: what they say means nothing, what they cost does."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from clara.checkpoint_clara import base_path, greedy_generation_config, make_processor
from clara.configuration_clara import ClaraConfig
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.train.plan import SHAPES
from transformers import AutoConfig, AutoTokenizer, MistralConfig, PreTrainedConfig

EMBEDDED = "smollm2-135m"
MISTRAL = SHAPES["mistralai/Mistral-7B-Instruct-v0.2"][1]
PRESETS: Mapping[str, Callable[[int], PreTrainedConfig]] = {
    EMBEDDED: lambda vocabulary: AutoConfig.from_pretrained(base_path(EMBEDDED), vocab_size=vocabulary),
    "mistral-7b": lambda vocabulary: MistralConfig(**{**MISTRAL, "vocab_size": vocabulary}),
}


def random_model(
    preset: str,
    device: torch.device | str,
    dtype: torch.dtype = torch.bfloat16,
    text_config: PreTrainedConfig | None = None,
    tokenizer: Any = None,
    **fields: Any,
) -> ClaraForRetrievalGeneration:
    """Makes a model of a preset's shape on a device, with random weights and the embedded base's tokenizer.

    The vocabulary is the tokenizer's, so that the sample texts can be read without the preset's own files.

    Args:
        preset: "smollm2-135m" or "mistral-7b".
        device: Where it is made.
        dtype: Of all weights.
        text_config: Another shape.
        tokenizer: Another tokenizer.
        **fields: Fields of `ClaraConfig`.
    """
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(base_path(EMBEDDED))
    shape = text_config or PRESETS[preset](len(tokenizer))
    config = ClaraConfig(text_config=shape, **{"lora_dropout": 0.0, **fields})
    with torch.device(device):
        model = ClaraForRetrievalGeneration._from_config(config, dtype=dtype)
    model.processor = make_processor(tokenizer, config)
    model.generation_config = greedy_generation_config(model.generation_config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model.eval()
