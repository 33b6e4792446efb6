"""How a CLaRa model is made, loaded and saved: strict, late adapters, the base under its own key names."""

import os

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig
from transformers.dynamic_module_utils import custom_object_save

from .adapters_clara import (
    adapter_names,
    add_adapter,
    copy_adapter,
    has_experts,
    load_adapter,
    lora_config,
    save_adapter,
)
from .checkpoint_clara import (
    OWN_NAMES,
    base_path,
    base_state,
    check_saving,
    greedy_generation_config,
    make_processor,
    own_names,
    read_own_tensors,
    remove_stale_weights,
    save_config,
    upload,
)
from .configuration_clara import ADAPTERS, FIELDS, ClaraConfig
from .processing_clara import ClaraProcessor
from .trainable_clara import TrainableModel

HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
QUANTIZATION_FLAGS = ("is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "quantization_method")


class ClaraPreTrainedModel(TrainableModel):
    """What every CLaRa model shares: making it from a base, strict loading, saving."""

    config: ClaraConfig
    base_model_prefix = "decoder"
    _keys_to_ignore_on_load_missing = [rf"^{name}$" for name in OWN_NAMES]
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    processor: ClaraProcessor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The base's dtype; adapters and memory tokens may lie beside it in float32."""
        return self.decoder.dtype

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
        if has_experts(text_config):
            fields.setdefault("lora_dropout", 0.0)
        config = cls.config_class(
            text_config=text_config,
            compression_rate=compression_rate,
            base_model_name_or_path=base,
            base_model_revision=revision,
            **fields,
        )
        model = cls._load_checked(path, config, revision=revision or "main", **kwargs)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model._add_fresh_adapters()
            model._reset_own_parameters()
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision or "main", **hub)
        model.processor = make_processor(tokenizer, config)
        model.generation_config = greedy_generation_config(model.generation_config)
        return model.eval()

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
        own = read_own_tensors(path, own_names(config), **hub)
        if own is not None:
            source, revision = base_path(config.base_model_name_or_path), config.base_model_revision
            model = cls._load_checked(
                source, config, *model_args, **{**kwargs, "revision": revision or "main"}
            )
            model.load_own_parameters(own, path)
            model.generation_config = GenerationConfig.from_pretrained(path, **hub)
        else:
            model = cls._load_checked(path, config, *model_args, **kwargs)
        for name in ADAPTERS:
            load_adapter(model.decoder, path, name, **hub)
        model.set_trainable(ADAPTERS if is_trainable else (), memory_tokens=is_trainable)
        tokenizer = AutoTokenizer.from_pretrained(path, config=config, **hub)
        model.processor = make_processor(tokenizer, config)
        model.eval()
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
        problems = {
            "missing": info["missing_keys"],
            "extra": info["unexpected_keys"],
            "misshapen": info["mismatched_keys"],
        }
        told = [f"{len(keys)} {what} (first: {sorted(keys)[0]})" for what, keys in problems.items() if keys]
        if told:
            raise ValueError(f"The weights in {path} do not fit this model: {', '.join(told)} tensors.")
        for flag in QUANTIZATION_FLAGS:
            if hasattr(model, flag):
                setattr(model.decoder, flag, getattr(model, flag))
        return model

    @classmethod
    def _from_config(cls, config: ClaraConfig, **kwargs: object) -> "ClaraPreTrainedModel":
        """`AutoModel.from_config`: random weights with fresh adapters, no processor."""
        model = super()._from_config(config, **kwargs)
        model._add_fresh_adapters()
        model._reset_own_parameters()
        return model

    def _add_fresh_adapters(self) -> None:
        for name in ADAPTERS:
            add_adapter(self.decoder, name, lora_config(self.config))
        copy_adapter(self.decoder, "compressor", "query_reasoner")

    @torch.no_grad()
    def _reset_own_parameters(self) -> None:
        """Memory tokens start as embeddings of random tokens, the connector's gain at their scale."""
        table = self.get_input_embeddings()
        weight = table.weight
        ids = torch.randint(len(weight), (max(self.config.num_memory_tokens, 256),), device="cpu").to(
            weight.device
        )
        rows = table(ids).float()
        for name, parameter in self.own_parameters().items():
            value = rows[: len(parameter)] if name == "memory_tokens" else rows.pow(2).mean().sqrt()
            parameter.copy_(torch.as_tensor(value).expand_as(parameter))

    def load_own_parameters(self, tensors: dict[str, Tensor], path: str) -> None:
        """Copies memory tokens and connector out of the tensors read from `path`.

        Raises:
            ValueError: If a shape differs.
        """
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
        full = self.state_dict() if state_dict is None else state_dict
        decoder_state = {
            key.removeprefix("decoder."): t for key, t in full.items() if key.startswith("decoder.")
        }
        own = {key: full[key].detach().to("cpu", adapter_dtype).clone() for key in own_names(self.config)}
        base = base_state(decoder_state) if save_base else {}
        if is_main_process:
            os.makedirs(folder, exist_ok=True)
            if self.is_remote_code():
                custom_object_save(self, folder, config=self.config)
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
