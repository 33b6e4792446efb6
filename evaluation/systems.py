"""Systems under one interface: a retriever, a reader and where to search, put together by name.

| part | choices |
|---|---|
| retriever | `clara` (cosine of vectors), `bm25`, `hybrid` (both), `dense`, `given` (pool order), none |
| reader | `memory`, `strangers` (memories from outside the pool), `text`, `tuned` (text, by a tuned model), |
| | `cut` (first tokens only), none |
| scope | `pool` (the question's candidates) or `corpus` (all passages of the benchmark) |
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from clara.processing_clara import Passages, reading_order

from .baselines import Retriever
from .benchmarks import Example
from .readers import Reader


@dataclass(frozen=True)
class Recipe:
    """What a system is made of; see the table above."""

    retriever: str
    reader: str
    scope: str = "pool"

    @property
    def searches_corpus_memories(self) -> bool:
        """Whether the memories of the whole corpus are searched."""
        return self.scope == "corpus" and self.retriever in ("clara", "hybrid")


SYSTEMS = {
    "clara": Recipe("clara", "memory"),
    "clara_corpus": Recipe("clara", "memory", "corpus"),
    "clara_hybrid": Recipe("hybrid", "memory"),
    "clara_hybrid_corpus": Recipe("hybrid", "memory", "corpus"),
    "clara_given": Recipe("given", "memory"),
    "clara_bm25": Recipe("bm25", "memory"),
    "clara_shuffled": Recipe("clara", "strangers"),
    "closed_book": Recipe("none", "none"),
    "text": Recipe("given", "text"),
    "text_clara": Recipe("clara", "text"),
    "text_bm25": Recipe("bm25", "text"),
    "text_dense": Recipe("dense", "text"),
    "text_bm25_corpus": Recipe("bm25", "text", "corpus"),
    "text_dense_corpus": Recipe("dense", "text", "corpus"),
    "tuned": Recipe("given", "tuned"),
    "tuned_clara": Recipe("clara", "tuned"),
    "tuned_bm25": Recipe("bm25", "tuned"),
    "tuned_dense": Recipe("dense", "tuned"),
    "cut": Recipe("given", "cut"),
    "cut_clara": Recipe("clara", "cut"),
    "cut_bm25": Recipe("bm25", "cut"),
}


@dataclass(frozen=True)
class Prediction:
    """What a system answered to one question.

    Attributes:
        id: the example's.
        answer: generated text.
        documents: parents of the passages read, best first; a split document can occur several times.
        scores: of these passages, by the retriever; empty without one.
        tokens_read: length of the generator's prompt, memory slots included.
    """

    id: str
    answer: str
    documents: tuple[int, ...]
    scores: tuple[float, ...]
    tokens_read: int


@dataclass(frozen=True)
class Found:
    """What a system is to read for one question.

    Attributes:
        example: the question.
        scores: of the passages found, best first.
        passages: found, best first.
        to_read: passages in reading order.
        size: how much that is to read, in units of the reader; alike sizes belong into one batch.
    """

    example: Example
    scores: tuple[float, ...]
    passages: tuple[int, ...]
    to_read: tuple[int, ...]
    size: int


class System:
    """Retrieves for each question and answers from what was retrieved.

    Args:
        retriever: finds passages; None: nothing is retrieved.
        reader: answers from them.
        passages: all N passages; a passage's parent is the number of its document.
        scope: "pool" or "corpus".
        retrieval_top_k: most passages K that are read.
        max_new_tokens: longest answer.
        stranger_seed: if given, the reader gets as many passages drawn from outside the question's pool and
            its positives instead of the retrieved ones (a control: what an answer owes to its memories).
    """

    def __init__(
        self,
        retriever: Retriever | None,
        reader: Reader,
        passages: Passages,
        scope: str = "pool",
        retrieval_top_k: int = 5,
        max_new_tokens: int = 64,
        stranger_seed: int | None = None,
    ) -> None:
        self._retriever, self._reader, self._passages = retriever, reader, passages
        self._scope, self._k, self._max_new_tokens = scope, retrieval_top_k, max_new_tokens
        self._stranger_seed = stranger_seed
        self._parts: dict[int, list[int]] = {}
        for passage, parent in enumerate(passages.parents):
            self._parts.setdefault(int(parent), []).append(passage)

    def answer(self, examples: Sequence[Example]) -> list[Prediction]:
        """Answers B questions in one batch."""
        return self.read(self.find(examples))

    def find(self, examples: Sequence[Example]) -> list[Found]:
        """Searches for B questions in one batch, and measures what is to be read."""
        scores, indices = self._search(examples)
        return [
            self._found(example, row_scores, row)
            for example, row_scores, row in zip(examples, scores, indices, strict=True)
        ]

    def _found(self, example: Example, scores: list[float], passages: list[int]) -> Found:
        to_read = self._to_read(example, passages)
        size = self._reader.size(example.question, to_read)
        return Found(example, tuple(scores), tuple(passages), tuple(to_read), size)

    def read(self, found: Sequence[Found]) -> list[Prediction]:
        """Answers B questions in one batch from what was found for them."""
        questions = [item.example.question for item in found]
        readings = self._reader.answer(questions, [item.to_read for item in found], self._max_new_tokens)
        return [
            Prediction(
                id=item.example.id,
                answer=answer,
                documents=tuple(int(self._passages.parents[passage]) for passage in item.passages),
                scores=item.scores,
                tokens_read=tokens_read,
            )
            for item, (answer, tokens_read) in zip(found, readings, strict=True)
        ]

    def _to_read(self, example: Example, found: list[int]) -> list[int]:
        if self._stranger_seed is None:
            return reading_order(self._passages, found)
        own = {part for document in (*example.pool, *example.positives) for part in self._parts[document]}
        strangers = [passage for passage in range(len(self._passages.texts)) if passage not in own]
        if len(strangers) < len(found):
            raise ValueError(
                f"question {example.id}: only {len(strangers)} passages lie outside its pool, {len(found)} "
                "are needed for the control. Evaluate more questions, or leave `clara_shuffled` out."
            )
        draw = np.random.default_rng([self._stranger_seed, zlib.crc32(example.id.encode())])
        return draw.choice(strangers, size=len(found), replace=False).tolist()

    def _search(self, examples: Sequence[Example]) -> tuple[list[list[float]], list[list[int]]]:
        if self._retriever is None:
            return [[] for _ in examples], [[] for _ in examples]
        questions = [example.question for example in examples]
        pools = [
            [passage for document in example.pool for passage in self._parts[document]]
            for example in examples
        ]
        scores, indices = self._retriever.search(questions, self._k, pools if self._scope == "pool" else None)
        found = [row >= 0 for row in indices]
        rows = list(zip(scores, indices, found, strict=True))
        return [row[kept].tolist() for row, _, kept in rows], [row[kept].tolist() for _, row, kept in rows]
