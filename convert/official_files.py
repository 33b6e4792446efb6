"""Reads a checkpoint of apple/ml-clara's format: config.json and two files of tensors, and nothing but those.

A checkpoint holds `config.json`, `adapters.pth` (LoRA tensors of each adapter, sometimes with copies of the
embedding and the head) and `decoder_first_last_layers.pth` (the resized embedding and head).
"""

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils.hub import cached_file

from ..adapters_clara import PEFT_PREFIX

CONFIG, ADAPTERS, TABLES = "config.json", "adapters.pth", "decoder_first_last_layers.pth"
NAMES = {
    "encoder_adapter": "compressor",
    "query_reasoner_adapter": "query_reasoner",
    "decoder_adapter": "generator",
}
OPTIONAL = "query_reasoner_adapter"
ZIP_START = b"PK\x03\x04"


@dataclass(frozen=True)
class OfficialCheckpoint:
    """What the three files hold."""

    name: str  # folder or Hub id, with the sub-folder
    fields: dict[str, Any]  # config.json
    adapters: dict[str, dict[str, Tensor]]  # LoRA tensors under the base's names, by our names of adapters
    copies: dict[str, dict[str, Tensor]]  # copies of embedding and head that lie beside them, by adapter
    tables: dict[str, Tensor]  # embedding, and head unless it is tied, under the base's parameter names


def read_official(checkpoint: str, subfolder: str = "", **hub: Any) -> OfficialCheckpoint:
    """Reads a checkpoint; tensors stay in their files until they are used.

    Args:
        checkpoint: Folder or Hub id.
        subfolder: Sub-folder with the files ("compression-16" in the released repositories).
        **hub: `revision`, `token`, `cache_dir` for the Hub.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, holds anything but tensors, or names an unknown adapter.
    """
    name = f"{checkpoint}/{subfolder}" if subfolder else str(checkpoint)
    paths = {file: _find(name, checkpoint, subfolder, file, **hub) for file in (CONFIG, ADAPTERS, TABLES)}
    fields = _read_json(paths[CONFIG])
    tables = _check_tensors(_load(paths[TABLES]), paths[TABLES])
    stored = _load(paths[ADAPTERS])
    if not isinstance(stored, Mapping):
        raise ValueError(f"{paths[ADAPTERS]} must hold a mapping of adapters, got {type(stored).__name__}.")
    unknown = sorted(set(stored) - set(NAMES), key=str)
    missing = sorted(set(NAMES) - set(stored) - {OPTIONAL})
    if unknown or missing:
        raise ValueError(
            f"{paths[ADAPTERS]} must hold the adapters {sorted(NAMES)} ({OPTIONAL} may be absent): it has "
            f"the unknown {unknown} and lacks {missing}."
        )
    held = {NAMES[key]: _check_tensors(stored[key], f"{paths[ADAPTERS]}, {key},") for key in stored}
    adapters = {key: {k: t for k, t in value.items() if ".lora_" in k} for key, value in held.items()}
    copies = {key: {k: t for k, t in value.items() if ".lora_" not in k} for key, value in held.items()}
    return OfficialCheckpoint(name, fields, adapters, copies, tables)


def _find(name: str, checkpoint: str, subfolder: str, file: str, **hub: Any) -> Path:
    optional = {"_raise_exceptions_for_missing_entries": False, **hub}
    path = cached_file(checkpoint, file, subfolder=subfolder, **optional)
    if path is None:
        raise FileNotFoundError(
            f"{name} has no {file}: a checkpoint of this format holds {CONFIG}, {ADAPTERS} and {TABLES}. "
            "The released repositories keep them in sub-folders: pass `--subfolder compression-16`."
        )
    return Path(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged or cut short, it is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(fields).__name__}.")
    return fields


def _load(path: Path) -> Any:
    """Loads a file of tensors by memory map, running nothing in it; a ValueError if it is anything else."""
    with path.open("rb") as file:
        start = file.read(len(ZIP_START))
    zipped = zipfile.is_zipfile(path)
    if start == ZIP_START and not zipped:
        raise ValueError(f"{path} is damaged or cut short: copy or download it again.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: it is damaged, or holds something else than tensors, which could run code "
            f"({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error


def _check_tensors(found: Any, where: Any) -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        raise ValueError(f"{where} must hold a mapping of names to tensors, got {type(found).__name__}.")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{where} must hold tensors alone, got {type(value).__name__} at {key!r}.")
        if not value.is_floating_point() or value.layout != torch.strided:
            raise ValueError(f"{where} must hold dense floating-point tensors, got {value.dtype} at {key!r}.")
    return {key.removeprefix(PEFT_PREFIX): value.detach() for key, value in found.items()}
