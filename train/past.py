"""Passages of past batches as negatives: cross-batch memory (arXiv 1912.06798)."""

import hashlib
import json
import os
from collections.abc import Sequence

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..retrieval_clara import cosine_scores


class PastPassages:
    """Search vectors of the last passages that were compressed while training, without gradients.

    Adapters move little from step to step: a vector of some hundred steps ago is nearly what the compressor
    would make today, and costs nothing.

    Args:
        size: Passages that are kept at most; the oldest go first.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.keys: list[str] = []
        self.vectors = torch.empty(0)

    def __len__(self) -> int:
        return len(self.keys)

    def push(self, keys: Sequence[str], vectors: Tensor) -> None:
        """Adds D passages, by their keys, with their search vectors (D, D')."""
        vectors = vectors.detach().float()
        if len(self):
            vectors = torch.cat([self.vectors.to(vectors.device), vectors])
        self.keys = [*self.keys, *keys][-self.size :]
        self.vectors = vectors[-self.size :]

    def scores(self, query: Tensor, own: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Cosines of questions and kept passages.

        Args:
            query: (Q, D') search vectors of the questions.
            own: The key of each question's own passage, whose copies are no negatives.

        Returns:
            (Q, P) cosines, and (Q, P) bool, False at copies of a question's own passage.
        """
        scores = cosine_scores(query, self.vectors.to(query.device))
        mask = [[kept != key for kept in self.keys] for key in own]
        return scores, torch.tensor(mask, device=query.device)

    def save(self, folder: str, process: int = 0) -> None:
        """Writes the passages of one process into a checkpoint's folder."""
        metadata = {"keys": json.dumps(self.keys)}
        save_file({"vectors": self.vectors.cpu()}, self._file(folder, process), metadata)

    def load(self, folder: str, process: int = 0) -> None:
        """Reads what `save` wrote."""
        with safe_open(self._file(folder, process), "pt") as file:
            self.keys, self.vectors = json.loads(file.metadata()["keys"]), file.get_tensor("vectors")

    @staticmethod
    def _file(folder: str, process: int) -> str:
        return os.path.join(folder, f"past_passages_{process}.safetensors")


def passage_keys(input_ids: Tensor, attention_mask: Tensor) -> list[str]:
    """A digest of what the compressor reads of each of D passages (D, L): texts cut alike have one."""
    rows = zip(input_ids.cpu(), attention_mask.cpu().bool(), strict=True)
    return [hashlib.sha256(ids[mask].numpy().tobytes()).hexdigest() for ids, mask in rows]
