"""Retrievers beside the baselines: the pool's own order, and the cosine of memories."""

from collections.abc import Sequence

import numpy as np
import torch
from clara.memory_clara import CorpusMemory
from clara.retrieval_clara import cosine_scores

from .baselines import Pools, best_of_pool, check_search
from .language_models import MemoryModel


class GivenRetriever:
    """Takes the candidates in the order of the pool."""

    def search(
        self, questions: Sequence[str], retrieval_top_k: int, pools: Pools | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Retriever.search`; pools are needed, scores are 1 / rank."""
        if pools is None:
            raise ValueError("`pools` is missing: a given order exists within pools only.")
        ranked = [best_of_pool(1 / (1 + np.arange(len(pool))), retrieval_top_k) for pool in pools]
        scores, places = (np.stack(part) for part in zip(*ranked, strict=True))
        rows = zip(pools, places, strict=True)
        return scores, np.array([[pool[place] if place >= 0 else -1 for place in row] for pool, row in rows])


class MemoryRetriever:
    """Cosine of the question's memory and the passages' memories.

    Args:
        model: the model that made the memories.
        memory: of all N passages.
    """

    def __init__(self, model: MemoryModel, memory: CorpusMemory) -> None:
        self._model, self._memory = model, memory

    def search(
        self, questions: Sequence[str], retrieval_top_k: int, pools: Pools | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Retriever.search`. Scores are cosines."""
        check_search(questions, retrieval_top_k, pools, len(self._memory))
        query = self._model.reason(questions)
        if pools is None:
            scores, indices = self._memory.search(query, retrieval_top_k)
            return scores.float().cpu().numpy(), indices.cpu().numpy()
        rows = []
        for number, pool in enumerate(pools):
            candidates = self._memory.gather(torch.tensor([list(pool)]))[0]
            scores = (
                cosine_scores(query[number : number + 1].to(candidates.device), candidates)[0].cpu().numpy()
            )
            ranked, places = best_of_pool(scores, retrieval_top_k)
            rows.append((ranked, np.where(places >= 0, np.asarray(pool)[places], -1)))
        scores, indices = zip(*rows, strict=True)
        return np.stack(scores), np.stack(indices)
