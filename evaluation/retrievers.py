"""Retrievers beside the baselines: the pool's own order, and the cosine of search vectors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from clara.retrieval_clara import cosine_scores
from clara.store.ranking import fuse_ranks

from .baselines import Pools, Retriever, best_of_pool, check_search
from .language_models import ClaraModel


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
    """Cosine of the search vectors of question and passages.

    Args:
        model: the model that made the memories.
        memory: of all N passages; a back end that has no `vectors` searches the whole corpus alone.
    """

    def __init__(self, model: ClaraModel, memory: Any) -> None:
        self._model, self._memory = model, memory

    def search(
        self, questions: Sequence[str], retrieval_top_k: int, pools: Pools | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Retriever.search`. Scores are cosines."""
        check_search(questions, retrieval_top_k, pools, len(self._memory))
        query = self._model.question_vectors(questions)
        if pools is None:
            scores, indices = self._memory.search(query, retrieval_top_k)
            return scores.numpy(), indices.numpy()
        rows = []
        for number, pool in enumerate(pools):
            scores = cosine_scores(query[number : number + 1], self._memory.vectors[list(pool)])[0]
            ranked, places = best_of_pool(scores.numpy(), retrieval_top_k)
            rows.append((ranked, np.where(places >= 0, np.asarray(pool)[places], -1)))
        scores, indices = zip(*rows, strict=True)
        return np.stack(scores), np.stack(indices)


class HybridRetriever:
    """Fuses the ranks of memories and words (`fuse_ranks`), within pools too.

    Args:
        memories: the cosine of search vectors.
        words: BM25; a document that shares no word with the question has no rank.
        count: number of passages N.
        weight: of the words, from 0 to 1; the memories have the rest.
        depth: ranks of each that count in a search of the whole corpus; in a pool all do.

    Raises:
        ValueError: `weight` is not from 0 to 1.
    """

    def __init__(
        self, memories: Retriever, words: Retriever, count: int, weight: float = 0.5, depth: int = 100
    ) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"`weight` must be from 0 to 1, got {weight}.")
        self._parts = ((memories, 1 - weight, -np.inf), (words, weight, 0.0))
        self._depth = min(depth, count)

    def search(
        self, questions: Sequence[str], retrieval_top_k: int, pools: Pools | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Retriever.search`. Scores are fused ranks."""
        depth = max(retrieval_top_k, self._depth if pools is None else max(map(len, pools), default=1))
        rankings: list[list[tuple[float, list[int]]]] = [[] for _ in questions]
        for retriever, weight, lowest in self._parts:
            found = zip(rankings, *retriever.search(questions, depth, pools), strict=True)
            for parts, values, row in found:
                parts.append((weight, row[values > lowest].tolist()))
        best = [best_of_fused(fuse_ranks(parts), retrieval_top_k) for parts in rankings]
        return np.stack([scores for scores, _ in best]), np.stack([indices for _, indices in best])


def best_of_fused(scores: Mapping[int, float], k: int) -> tuple[np.ndarray, np.ndarray]:
    """(K,) scores and (K,) documents, best first as they came; -inf and -1 at the end."""
    documents = np.array(list(scores), np.int64)
    ranked, places = best_of_pool(np.array([scores[key] for key in documents.tolist()], np.float64), k)
    found = places >= 0
    return ranked, np.where(found, documents[np.where(found, places, 0)], -1)
