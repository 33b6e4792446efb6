"""Converts checkpoints of the paper's released implementation (apple/ml-clara) into ours."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig
from transformers.dynamic_module_utils import custom_object_save

from ..adapters_clara import save_adapter
from ..bases.folders import check_free, complete_folder
from ..checkpoint_clara import base_path, make_processor
from ..configuration_clara import ADAPTERS, ClaraConfig
from ..modeling_clara import ClaraForRetrievalGeneration
from ..pipeline_clara import CUSTOM_PIPELINES
from .official_base import StoredTensor, as_loaded, read_base, write_weights
from .official_config import check_fields, extend_tokenizer, make_config, make_generation_config, memory_marks
from .official_files import CONFIG, OfficialCheckpoint, read_official
from .official_merge import check_adapters, merge_weights

logger = logging.getLogger(__name__)


def convert_official(
    checkpoint: str,
    base: str,
    output: str | os.PathLike,
    subfolder: str = "",
    revision: str | None = None,
    base_revision: str | None = None,
) -> Path:
    """Writes a released checkpoint as one of ours, with the same numbers.

    The released implementation loads base and adapters in bfloat16, so all weights are rounded to it here.
    Without a query reasoner (the first two stages) the compressor is copied into its place, where end-to-end
    training starts from.

    Args:
        checkpoint: Folder or Hub id of the released checkpoint.
        base: Folder or Hub id of the causal LM it was trained on.
        output: Folder to make; it appears when it is complete.
        subfolder: Sub-folder of the checkpoint ("compression-16").
        revision: Revision of the checkpoint on the Hub.
        base_revision: Revision of the base on the Hub.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If a file is missing.
        FileExistsError: If `output` holds something already.
        ValueError: If a file is damaged or refused, or base and checkpoint do not fit each other.
    """
    target = Path(output)
    check_free(target)
    found = read_official(checkpoint, subfolder, revision=revision or "main")
    check_fields(found.fields, f"{found.name}/{CONFIG}")
    path, hub = base_path(base), {"revision": base_revision or "main"}
    tokenizer = AutoTokenizer.from_pretrained(path, **hub)
    extend_tokenizer(tokenizer, found.fields, base)
    config = make_config(
        found.fields,
        AutoConfig.from_pretrained(path, **hub),
        tokenizer,
        base,
        base_revision,
        "query_reasoner" in found.adapters,
    )
    weights = read_base(path, **hub)
    with torch.device("meta"):
        model = ClaraForRetrievalGeneration._from_config(config)
    memory_ids = tokenizer.convert_tokens_to_ids(memory_marks(found.fields))
    tensors = merge_weights(model, found, weights, memory_ids)
    check_adapters(model, found)
    config.dtype = _base_dtype(weights, found)
    model.generation_config = make_generation_config(found.fields, _base_generation(config, path, hub))
    model.processor = make_processor(tokenizer, config)
    with complete_folder(target) as folder:
        write_weights(folder, tensors)
        _write_rest(model, found, folder)
    return target


def _base_dtype(weights: Mapping[str, StoredTensor], found: OfficialCheckpoint) -> str:
    """The dtype to load the model in unless another is asked for: float32 if the base lies in it."""
    layers = {tensor.dtype for name, tensor in weights.items() if name not in found.tables}
    return "float32" if layers == {torch.float32} else "bfloat16"


def _base_generation(config: ClaraConfig, path: str, hub: dict[str, str]) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(path, **hub)
    except OSError:
        logger.info("%s has no generation_config.json; its config.json says how texts end", path)
        return GenerationConfig.from_model_config(config.text_config)


def _write_rest(model: ClaraForRetrievalGeneration, found: OfficialCheckpoint, folder: Path) -> None:
    """Everything but the root's weights: code, configurations, processor, adapters."""
    custom_object_save(model, folder, config=model.config)
    model.config.architectures = [type(model).__name__]
    model.config.custom_pipelines = CUSTOM_PIPELINES
    model.config.text_config._name_or_path = ""
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    model.processor.save_pretrained(folder)
    for name in ADAPTERS:
        tensors = found.adapters.get(name, found.adapters["compressor"])
        state = {
            key.replace(".weight", f".{name}.weight"): as_loaded(tensor) for key, tensor in tensors.items()
        }
        base = model.config.base_model_name_or_path
        save_adapter(model.decoder, name, str(folder / name), state, base=base)
