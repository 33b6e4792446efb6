"""Words beside memories: BM25 over the texts of a corpus memory, and ranks fused; only where asked for.

Letters of the shapes: B questions, N passages, K chosen, M memory tokens, H hidden width.
"""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .filters_clara import Where
from .finding_clara import FindingMixin
from .search_clara import check_search
from .shards_clara import Shard

FUSION = 60
DEPTH = 100
HALF = 0.5


class WordIndex:
    """BM25 as in Lucene (k1 = 1.5, b = 0.75), through bm25s; English stop words do not count.

    Args:
        texts: N texts; they are read once and not kept.

    Raises:
        ValueError: If no text has a word that counts.
        ModuleNotFoundError: If bm25s is not installed.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        try:
            library = importlib.import_module("bm25s")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"Words need `pip install bm25s` ({error}).") from error
        tokens = library.tokenize(texts, stopwords="en", show_progress=False)
        if not tokens.vocab:
            raise ValueError("The texts hold no word but stop words: BM25 has nothing to count.")
        self._tokenize, self._count = library.tokenize, len(tokens.ids)
        self._index = library.BM25(method="lucene")
        self._index.index(tokens, show_progress=False)

    def __len__(self) -> int:
        return self._count

    def scores(self, questions: Sequence[str]) -> Iterator[np.ndarray]:
        """(N,) float32 scores of one question after the other; 0 where no word is shared."""
        for words in self._tokenize(list(questions), stopwords="en", return_ids=False, show_progress=False):
            known = [word for word in words if word in self._index.vocab_dict]
            yield self._index.get_scores(known) if known else np.zeros(self._count, np.float32)


class WordsMixin(FindingMixin):
    """Search of a corpus memory by words. The words are counted at the first such search, and stay in RAM."""

    _words: WordIndex | None = None

    def search_words(
        self, questions: Sequence[str], retrieval_top_k: int, where: Where | None = None
    ) -> list[list[int]]:
        """Finds the passages that share words with each question, best first by BM25.

        Args:
            questions: B questions.
            retrieval_top_k: At most so many passages a question.
            where: Which passages may be found, as of `search`.

        Returns:
            B lists of indices; of equal scores the lower index first.

        Raises:
            ValueError: If no passage has a word that counts, or `where` is no filter.
            ModuleNotFoundError: If bm25s is not installed.
        """
        if self._words is None:
            self._words = WordIndex(self.texts)
        allowed = self._allowed(where)
        found = []
        for scores in self._words.scores(questions):
            sharing = np.flatnonzero(scores > 0 if allowed is None else (scores > 0) & allowed)
            order = np.argsort(-scores[sharing], kind="stable")[:retrieval_top_k]
            found.append(sharing[order].tolist())
        return found

    def _hold(self, shards: Sequence[Shard]) -> None:
        super()._hold(shards)
        self._words = None


def check_hybrid(hybrid: float | bool) -> float:
    """The weight of the words: a half for True.

    Raises:
        ValueError: If it is no number from 0 to 1.
    """
    if hybrid is True:
        return HALF
    if not isinstance(hybrid, int | float) or not 0 <= hybrid <= 1:
        raise ValueError(
            f"`hybrid` is the weight of the words, from 0 to 1, or True for a half; got {hybrid!r}."
        )
    return float(hybrid)


def fuse_ranks(rankings: Iterable[tuple[float, Sequence[int]]]) -> dict[int, float]:
    """Reciprocal rank fusion (Cormack et al. 2009), which needs no common scale of scores.

    Args:
        rankings: Weight and documents, best first, of each ranking.

    Returns:
        Document -> sum of weight / (60 + rank) over the rankings that have it, best first; of equal ones
        the one that came first, in the order of the rankings.
    """
    fused: dict[int, float] = {}
    for weight, ranked in rankings:
        for rank, document in enumerate(ranked, 1):
            fused[document] = fused.get(document, 0.0) + weight / (FUSION + rank)
    return dict(sorted(fused.items(), key=lambda item: -item[1]))


@torch.no_grad()
def hybrid_search(
    memory: Any,
    questions: Sequence[str],
    query: Tensor,
    retrieval_top_k: int,
    hybrid: float | bool,
    where: Where | None = None,
    exact: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Finds passages by the fused ranks of memories and words; without a shared word there is none of words.

    Args:
        memory: A corpus memory, local or in Milvus.
        questions: B questions.
        query: (B, M, H) their memories.
        retrieval_top_k: K.
        hybrid: Weight of the words, from 0 to 1; True: a half. The memories have the rest.
        where: As of `search`.
        exact: As of `search`.

    Returns:
        (B, K) float32 cosines and (B, K) int64 indices on the CPU, in the order of the fused ranks, so that
        the cosines need not fall; fewer columns if fewer passages pass `where`.

    Raises:
        ValueError: As `search` and `search_words`, or if the weight is out of range.
        ModuleNotFoundError: As `search` and `search_words`.
    """
    weight = check_hybrid(hybrid)
    shape = (memory.num_memory_tokens, memory.hidden_size)
    check_search(query, shape, len(memory), retrieval_top_k, None)
    depth = min(len(memory), max(retrieval_top_k, DEPTH))
    near = memory.search(query, depth, where=where, exact=exact)[1].cpu()
    words = memory.search_words(questions, depth, where)
    columns = min(retrieval_top_k, near.shape[1])
    fused = [
        list(fuse_ranks(((1 - weight, by_memory), (weight, by_words))))[:columns]
        for by_memory, by_words in zip(near.tolist(), words, strict=True)
    ]
    indices = torch.tensor(fused, dtype=torch.long).view(len(fused), columns)
    scores = memory.scores(query, indices) if columns else torch.empty(len(fused), 0)
    return scores, indices
