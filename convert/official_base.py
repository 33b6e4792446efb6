"""Reads a base's weights and writes a checkpoint's, a shard at a time, so that RAM stays small."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

SHARD_BYTES = 500_000_000
PATTERN = "model{suffix}.safetensors"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the base, still in its file."""

    file: str
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Its size."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def read(self) -> Tensor:
        """Its values."""
        with safe_open(self.file, "pt") as opened:
            return opened.get_tensor(self.name)


def as_loaded(tensor: Tensor) -> Tensor:
    """The values that the released implementation computes with: it loads every weight in bfloat16.

    Float32 stays float32, with rounded values; the rest becomes bfloat16.
    """
    rounded = tensor.to(torch.bfloat16)
    return rounded.float() if tensor.dtype == torch.float32 else rounded


def read_base(base: str, **hub: Any) -> dict[str, StoredTensor]:
    """Finds every tensor of a base without reading its values.

    Args:
        base: Folder or Hub id.
        **hub: `revision`, `token`, `cache_dir` for the Hub.

    Raises:
        FileNotFoundError: If it has no safetensors weights, or one of its files is missing.
        ValueError: If a file is damaged, or the base is quantised.
    """
    found = {}
    for file in _weight_files(base, **hub):
        try:
            with safe_open(file, "pt") as opened:
                names = list(opened.keys())
                found.update({name: _stored(file, name, opened.get_slice(name)) for name in names})
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged or cut short: {error}") from error
    return found


def _stored(file: str, name: str, view: Any) -> StoredTensor:
    if view.get_dtype() not in DTYPES:
        raise ValueError(
            f"{file} holds {name!r} as {view.get_dtype()}: give the base as it was before it was quantised."
        )
    return StoredTensor(file, name, tuple(view.get_shape()), DTYPES[view.get_dtype()])


def _weight_files(base: str, **hub: Any) -> list[str]:
    optional = {"_raise_exceptions_for_missing_entries": False, **hub}
    single = cached_file(base, SAFE_WEIGHTS_NAME, **optional)
    if single is not None:
        return [single]
    index = cached_file(base, SAFE_WEIGHTS_INDEX_NAME, **optional)
    if index is None:
        raise FileNotFoundError(
            f"{base} has no weights in safetensors: save it once with transformers' `save_pretrained`."
        )
    names = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
    files = {name: cached_file(base, name, **optional) for name in names}
    missing = [name for name, file in files.items() if file is None]
    if missing:
        raise FileNotFoundError(f"{base} lacks {missing}, which its index names: download it again.")
    return [str(file) for file in files.values()]


def write_weights(folder: Path, tensors: Mapping[str, StoredTensor | Tensor]) -> None:
    """Writes tensors as loaded, in shards, one in RAM at a time, and their index if there are several."""
    split = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern=PATTERN,
        max_shard_size=SHARD_BYTES,
    )
    for file, names in split.filename_to_tensors.items():
        shard = {name: as_loaded(_values(tensors[name])).contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        del shard
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _values(tensor: StoredTensor | Tensor) -> Tensor:
    return tensor if torch.is_tensor(tensor) else tensor.read()
