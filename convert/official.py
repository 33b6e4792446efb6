"""Converts checkpoints of the paper's released implementation (apple/ml-clara) into ours."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig
from transformers.dynamic_module_utils import custom_object_save

from ..adapters_clara import PEFT_PREFIX, load_adapter_state, save_adapter
from ..bases.folders import check_free, complete_folder
from ..checkpoint_clara import base_path, base_state, make_processor
from ..configuration_clara import ADAPTERS, ClaraConfig
from ..modeling_clara import ClaraForRetrievalGeneration
from ..pipeline_clara import CUSTOM_PIPELINES
from .official_base import StoredTensor, as_loaded, read_base, write_weights
from .official_config import check_fields, extend_tokenizer, make_config, make_generation_config, memory_marks
from .official_files import ADAPTERS as ADAPTERS_FILE
from .official_files import CONFIG, TABLES, OfficialCheckpoint, read_official

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
    layers = {tensor.dtype for name, tensor in weights.items() if name not in found.tables}
    config.dtype = "float32" if layers == {torch.float32} else "bfloat16"  # of the base: to load the model in
    model.generation_config = make_generation_config(found.fields, _base_generation(config, path, hub))
    model.processor = make_processor(tokenizer, config)
    with complete_folder(target) as folder:
        write_weights(folder, tensors)
        _write_rest(model, found, folder)
    return target


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


def merge_weights(
    model: Any, found: OfficialCheckpoint, weights: Mapping[str, StoredTensor], memory_ids: list[int]
) -> dict[str, StoredTensor | Tensor]:
    """The root's tensors: the base's, embedding and head of the checkpoint, and the memory tokens.

    The model may lie on the meta device; `memory_ids` (M,) are the memory tokens' vocabulary entries. A
    ValueError if names or shapes of base and checkpoint do not fit each other.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in base_state(model.decoder.state_dict()).items()}
    embedding, head, tied = table_names(model)
    tables = dict(found.tables)
    if tied and tables.keys() == {embedding, head} and torch.equal(tables[embedding], tables[head]):
        del tables[head]
    wanted = {embedding} if tied else {embedding, head}
    if tables.keys() != wanted:
        raise ValueError(
            f"{TABLES} of {found.name} must hold {sorted(wanted)}, got {sorted(tables)}: the base is of "
            "another architecture than the checkpoint's."
        )
    _check_tables(tables, shapes, found.name)
    _check_copies(found, {embedding: tables[embedding], head: tables.get(head, tables[embedding])})
    _check_base(weights, shapes, {embedding, head})
    if embedding not in weights:
        raise ValueError(f"The base's files hold no {embedding!r}: save it once with transformers.")
    _warn_of_another_base(weights[embedding], tables[embedding], found.name)
    kept = {name: tensor for name, tensor in weights.items() if name != head or not tied}
    return {**kept, **tables, "memory_tokens": tables[embedding][memory_ids].clone()}


def table_names(model: Any) -> tuple[str, str, bool]:
    """Parameter names of the decoder's embedding and head, and whether they are one tensor."""
    decoder = model.decoder
    modules = {id(module): name for name, module in decoder.named_modules()}
    embedding, head = decoder.get_input_embeddings(), decoder.get_output_embeddings()
    tied = bool(decoder.config.get_text_config().tie_word_embeddings)
    return f"{modules[id(embedding)]}.weight", f"{modules[id(head)]}.weight", tied


def _check_tables(tables: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], name: str) -> None:
    for key, table in tables.items():
        if tuple(table.shape) != shapes[key]:
            raise ValueError(
                f"The base does not fit {name}: {key!r} has shape {tuple(table.shape)} in {TABLES}, "
                f"expected {shapes[key]}, the vocabulary of the base's tokenizer with the special tokens of "
                "this format, and the base's width."
            )


def _check_copies(found: OfficialCheckpoint, tables: dict[str, Tensor]) -> None:
    where = f"{ADAPTERS_FILE} of {found.name}"
    for adapter, copies in found.copies.items():
        for key, copy in copies.items():
            if key not in tables:
                raise ValueError(f"{where} holds {key!r} in its {adapter}, which is no LoRA tensor.")
            if not torch.equal(copy, tables[key]):
                raise ValueError(
                    f"{where} holds another {key!r} in its {adapter} than {TABLES}: the files are of "
                    "different checkpoints."
                )


def _check_base(
    weights: Mapping[str, StoredTensor], shapes: dict[str, tuple[int, ...]], replaced: set[str]
) -> None:
    """Checks names and shapes of a base's files.

    Some architectures lie in files under other names than in the model; they are then checked in loading.
    """
    compared = weights.keys() & shapes.keys()
    skip = {name: int(name in replaced) for name in compared}  # the rows of embedding and head are the base's
    wrong = sorted(
        name for name in compared if weights[name].shape[skip[name] :] != shapes[name][skip[name] :]
    )
    missing = sorted(shapes.keys() - weights.keys() - replaced) if weights.keys() <= shapes.keys() else []
    if wrong or missing:
        raise ValueError(
            f"The base's weights do not fit its config.json: misshapen {wrong[:3]}, missing {missing[:3]}."
        )


def _warn_of_another_base(stored: StoredTensor, table: Tensor, name: str) -> None:
    """Training there moves the rows of the added tokens alone, so the base's rows tell which base it was."""
    rows = min(len(table), stored.shape[0])
    same = (as_loaded(stored.read()[:rows]) == as_loaded(table[:rows])).all(dim=1).float().mean()
    if same < 0.5:
        logger.warning(
            "%.0f %% of the base's embedding rows are the same in %s: is this the base it was trained on?",
            100 * same,
            name,
        )


def check_adapters(model: Any, found: OfficialCheckpoint) -> None:
    """Raises a ValueError if an adapter does not cover every linear layer, in its shapes and the rank."""
    for name, tensors in found.adapters.items():
        prefixed = {PEFT_PREFIX + key: tensor for key, tensor in tensors.items()}
        where = f"{found.name}/{ADAPTERS_FILE} (is this the right base?)"
        load_adapter_state(model.decoder, name, prefixed, where)
