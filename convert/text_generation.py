"""Plain causal LMs: the generator merged into its base, and the way back from a fine-tune."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftConfig
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from ..adapters_clara import CONFIG_FILE, WEIGHTS_FILE, check_plain, load_adapter_state, tuner_layers
from ..bases.folders import complete_folder
from ..checkpoint_clara import base_path, base_state
from ..modeling_clara import ClaraForRetrievalGeneration

ITERATIONS = 4  # of the randomised singular value decomposition
SPARE = 8


class Fitted(NamedTuple):
    """A CLaRa model made from a fine-tune."""

    model: ClaraForRetrievalGeneration  # its generator is what was learnt
    kept: float  # share of the squared change of the weights that the generator holds; 1: all of it


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


def to_text_generation(model: Any, output: Path) -> None:
    """Writes the base with the generator merged into it: a folder for `AutoModelForCausalLM` and any engine.

    Args:
        model: A `ClaraForRetrievalGeneration` with its processor, not quantised.
        output: New or empty; it appears when it is complete.

    Raises:
        FileExistsError: If the folder holds something.
        ValueError: If the base is quantised.
    """
    with complete_folder(output) as folder:
        merged_generator(model).save_pretrained(folder)
        model.processor.tokenizer.save_pretrained(folder)


def from_text_generation(
    fine_tune: str, base: str | None = None, revision: str | None = None, **fields: Any
) -> Fitted:
    """A CLaRa model whose generator answers as a text-generation fine-tune does.

    The other adapters are fresh. Given full weights without `base`, they become the base itself, so that the
    compressor and the query reasoner start from what was learnt too.

    Args:
        fine_tune: Folder of a LoRA adapter (plain PEFT), or folder or Hub id of full weights.
        base: The causal LM that was tuned. An adapter's own base by default. For full weights: the generator
            becomes the difference from it, the best one of its rank.
        revision: Revision of the base on the Hub.
        **fields: Of `ClaraConfig` (compression_rate, lora_r, …), and arguments of `from_pretrained`.

    Raises:
        ValueError: If the adapter is no plain LoRA or does not fit, or the weights differ from the base where
            no adapter reaches.
    """
    if Path(fine_tune, CONFIG_FILE).is_file():
        return Fitted(_with_adapter(fine_tune, base, revision, fields), 1.0)
    if base is None:
        return Fitted(ClaraForRetrievalGeneration.from_base(fine_tune, revision=revision, **fields), 1.0)
    model = ClaraForRetrievalGeneration.from_base(base, revision=revision, **fields)
    tuned = AutoModelForCausalLM.from_pretrained(base_path(fine_tune), dtype=model.dtype)
    state = tuned.state_dict()
    _check_rest(model, state, fine_tune)
    return Fitted(model, _fit_generator(model, state))


def _with_adapter(folder: str, base: str | None, revision: str | None, fields: dict[str, Any]) -> Any:
    """The adapter as the generator; the other adapters have its layers and ranks."""
    file = Path(folder, CONFIG_FILE)
    lora = PeftConfig.from_pretrained(folder)
    check_plain(lora, str(file))
    if lora.use_rslora:
        raise ValueError(f"{file}: `use_rslora` scales by the root of the rank, which is not plain LoRA.")
    base = base or lora.base_model_name_or_path
    if not base:
        raise ValueError(f"{file} names no base: give `base`.")
    modules = lora.target_modules
    own = {
        "lora_r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "lora_target_modules": modules if isinstance(modules, str) else sorted(modules),
        "lora_rank_pattern": lora.rank_pattern or None,
        "lora_alpha_pattern": lora.alpha_pattern or None,
    }
    model = ClaraForRetrievalGeneration.from_base(base, revision=revision, **{**own, **fields})
    path = str(Path(folder, WEIGHTS_FILE))
    load_adapter_state(model.decoder, "generator", load_file(path), where=path)
    return model


def _check_rest(model: Any, state: dict[str, Tensor], where: str) -> None:
    """Raises a `ValueError` if the fine-tune differs from the base in shape, or where no adapter reaches."""
    base = base_state(model.decoder.state_dict())
    reached = {f"{name}.weight" for name in _layers(model)}
    way = "leave `base` out, so that the full weights become the base"
    for name in sorted(base.keys() | state.keys()):
        if name not in base or name not in state or base[name].shape != state[name].shape:
            raise ValueError(f"{where} is no fine-tune of the base, {name} differs in shape: {way}.")
        if name not in reached and not torch.equal(base[name], state[name]):
            raise ValueError(
                f"{where} differs from the base in {name}, which no adapter reaches: {way}, or name its "
                "layer in `lora_target_modules`."
            )


def _layers(model: Any) -> dict[str, Any]:
    """The adapted linear layers by the names that the plain base gives them."""
    adapted = {layer for layer in tuner_layers(model.decoder) if isinstance(layer.base_layer, nn.Linear)}
    return {name: layer for name, layer in model.decoder.named_modules() if layer in adapted}


@torch.no_grad()
def _fit_generator(model: Any, state: dict[str, Tensor]) -> float:
    """Sets the generator to the best approximation of its rank; returns the share of the change it holds."""
    whole, lost = 0.0, 0.0
    for name, layer in _layers(model).items():
        down, up = layer.lora_A["generator"].weight, layer.lora_B["generator"].weight
        delta = state[f"{name}.weight"].float() - layer.base_layer.weight.float()
        rank = len(down)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            left, values, right = torch.svd_lowrank(delta, min(rank + SPARE, *delta.shape), niter=ITERATIONS)
        root = values[:rank].sqrt()
        up.zero_()
        down[: len(root)] = root.unsqueeze(1) * right[:, :rank].T
        up[:, : len(root)] = left[:, :rank] * root / layer.scaling["generator"]
        found = up.float() @ down.float() * layer.scaling["generator"]
        whole += float(delta.square().sum())
        lost += float((delta - found).square().sum())
    return 1 - lost / whole if whole else 1.0
