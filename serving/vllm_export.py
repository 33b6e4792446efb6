"""A checkpoint for vLLM: the base with the generator merged into it, and what makes its prompt embeddings."""

from pathlib import Path
from typing import Any

from ..convert.text_generation import to_text_generation

CLIENT = "clara"


def export_vllm(model: Any, folder: Path) -> None:
    """Writes a folder for `vllm serve`, in it a folder `clara` for `ClaraVllmClient`.

    The client's half is an ordinary checkpoint (adapters, memory tokens, processor); the base's weights are
    in it only if its config does not name where else they lie.

    Args:
        model: A `ClaraForRetrievalGeneration` with its processor, not quantised.
        folder: New or empty.

    Raises:
        FileExistsError: If the folder holds something.
        ValueError: If the base is quantised.
    """
    to_text_generation(model, folder)
    named = bool(model.config.base_model_name_or_path) and not model.config.base_is_changed
    model.save_pretrained(folder / CLIENT, save_base=not named)
