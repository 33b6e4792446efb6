"""The model that a command works with: a trained checkpoint, or a base with untrained adapters."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ..modeling_clara import ClaraForRetrievalGeneration

SHIPPED = Path(__file__).resolve().parents[1] / "checkpoints" / "clara-smollm2-135m"
EMBEDDED = "smollm2-135m"
UNTRAINED = (
    "These adapters are UNTRAINED: no training has taught this model to write or read memories. The answers "
    "are nonsense, and the search has only what the plain base's states happen to share. Sizes, times and "
    "the path of the data are real."
)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--model` and `--device`."""
    parser.add_argument(
        "--model",
        metavar="PATH_OR_ID",
        help="CLaRa checkpoint (folder or Hub id), or a causal LM, which gets untrained adapters "
        f"(default: {SHIPPED.name} if this checkout has it, else {EMBEDDED})",
    )
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: the accelerator if there is one)")


def quiet_kernels() -> None:
    """Keeps bitsandbytes from warning, when it is imported, of kernels that nothing here uses."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """Keeps what other libraries say of themselves, and their progress bars, out of a command's output."""
    quiet_kernels()  # again: a worker has not passed `main`
    from transformers.utils import logging as theirs

    theirs.set_verbosity_error()
    theirs.disable_progress_bar()


@contextmanager
def collecting_later() -> Iterator[None]:
    """Keeps Python from looking for garbage while much is made and nearly all of it stays.

    Imports and weights make millions of objects, over which it would look a hundred times: a second or two.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@collecting_later()
def load_model(
    name: str | None = None,
    device: str | None = None,
    compression_rate: int | None = None,
    dtype: torch.dtype | None = None,
    **fields: Any,
) -> tuple[ClaraForRetrievalGeneration, bool]:
    """Loads a model for a command.

    Args:
        name: checkpoint or base; the shipped checkpoint by default, else the embedded base.
        device: where it goes; the accelerator by default, else the CPU.
        compression_rate: of untrained adapters, 16 by default; a checkpoint has its own, and one whose
            memories are means of spans can be read at any other.
        dtype: of the weights; the model's own by default.
        **fields: of `ClaraConfig`, for untrained adapters; a checkpoint has its own.

    Returns:
        The model, and whether its adapters come from a checkpoint.

    Raises:
        ValueError: `compression_rate` is not that of a checkpoint with memory tokens, or torch cannot use
            `device` here.
        FileNotFoundError: `name` looks like a folder and is none.
    """
    from ..evaluation.devices import choose_device

    quiet_libraries()
    from ..modeling_clara import ClaraForRetrievalGeneration

    place = choose_device(device)
    name = name or (str(SHIPPED) if SHIPPED.is_dir() else EMBEDDED)
    options = {} if dtype is None else {"dtype": dtype}
    trained = is_checkpoint(name)
    if trained:
        fields = rate_fields(name, compression_rate)
        model = ClaraForRetrievalGeneration.from_pretrained(name, **fields, **options)
    else:
        rate = compression_rate or 16
        model = ClaraForRetrievalGeneration.from_base(name, compression_rate=rate, **fields, **options)
    return model.to(place), trained


def rate_fields(name: str, compression_rate: int | None) -> dict[str, int]:
    """The field that reads a checkpoint at another rate; one with memory tokens refuses (ValueError)."""
    if compression_rate is None:
        return {}
    from ..configuration_clara import ClaraConfig

    config = ClaraConfig.from_pretrained(name)
    if config.pooling == "memory_tokens" and compression_rate != config.compression_rate:
        raise ValueError(
            f"`--compression-rate` {compression_rate} is not the rate of {name}, which was trained at "
            f"{config.compression_rate}: leave it out."
        )
    return {"compression_rate": compression_rate}


def is_checkpoint(name: str) -> bool:
    """Whether `name` is a CLaRa checkpoint and not a plain causal LM."""
    from transformers import PretrainedConfig

    from ..bases.embedded import is_embedded
    from ..configuration_clara import ClaraConfig

    if is_embedded(name):
        return False
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).is_dir():
        raise FileNotFoundError(f"`--model` {name} is not a folder.")
    fields, _ = PretrainedConfig.get_config_dict(name)
    return fields.get("model_type") == ClaraConfig.model_type


def warn_untrained(trained: bool) -> None:
    """Says on stderr that answers mean nothing yet, unless the adapters are trained."""
    if not trained:
        print(UNTRAINED, file=sys.stderr)
