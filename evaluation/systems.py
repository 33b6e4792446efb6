"""Systems under one interface: a retriever, a reader and where to search, put together by name.

| part | choices |
|---|---|
| retriever | `clara` (cosine of memories), `bm25`, `dense`, `given` (the pool's own order), none |
| reader | `memory`, `strangers` (memories from outside the pool), `text`, `tuned` (text, by a tuned model), |
| | `cut` (first tokens only), none |
| scope | `pool` (the question's candidates) or `corpus` (all passages of the benchmark) |
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from clara.documents_clara import Passages, reading_order
from clara.memory_clara import CorpusMemory

from .baselines import BM25Retriever, DenseRetriever, Retriever, load_sentence_encoder
from .benchmarks import Benchmark, Example, check_choice
from .language_models import MemoryModel, TextModel
from .readers import ClosedBookReader, MemoryReader, Reader, TextReader, memory_bytes
from .retrievers import GivenRetriever, MemoryRetriever


@dataclass(frozen=True)
class Recipe:
    """What a system is made of; see the table above."""

    retriever: str
    reader: str
    scope: str = "pool"


SYSTEMS = {
    "clara": Recipe("clara", "memory"),
    "clara_corpus": Recipe("clara", "memory", "corpus"),
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
        scores, indices = self._search(examples)
        order = [self._to_read(example, row) for example, row in zip(examples, indices, strict=True)]
        questions = [example.question for example in examples]
        readings = self._reader.answer(questions, order, self._max_new_tokens)
        return [
            Prediction(
                id=example.id,
                answer=answer,
                documents=tuple(int(self._passages.parents[passage]) for passage in row),
                scores=tuple(row_scores),
                tokens_read=tokens_read,
            )
            for example, row, row_scores, (answer, tokens_read) in zip(
                examples, indices, scores, readings, strict=True
            )
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


class Workbench:
    """Everything the systems share, made once and only when a system needs it.

    Args:
        benchmark: questions and documents.
        model: compresses, reasons and answers from memories.
        text_model: answers from text.
        retrieval_top_k: most passages read for a question.
        max_new_tokens: longest answer.
        compression_rate: of the reader `cut`.
        encoder: folder or Hub id of the sentence encoder; None: all-MiniLM-L6-v2.
        memory_folder: where the memories are kept between runs; None: nowhere.
        batch_size: passages compressed at once.
        seed: of the reader `strangers`.
        tuned_model: answers from text after being tuned on it, for the reader `tuned`; None: it is not there.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        model: MemoryModel,
        text_model: TextModel,
        retrieval_top_k: int = 5,
        max_new_tokens: int = 64,
        compression_rate: int = 16,
        encoder: str | None = None,
        memory_folder: Path | None = None,
        batch_size: int = 32,
        seed: int = 0,
        tuned_model: TextModel | None = None,
    ) -> None:
        self._tuned_model = tuned_model
        self._benchmark, self._model, self._text_model = benchmark, model, text_model
        self._k, self._max_new_tokens, self._rate = retrieval_top_k, max_new_tokens, compression_rate
        self._encoder, self._folder, self._batch_size = encoder, memory_folder, batch_size
        self._seed = seed
        self._readers: dict[str, Reader] = {}

    @cached_property
    def passages(self) -> Passages:
        """The benchmark's documents, split where they are too long for the compressor."""
        return self._model.split(self._benchmark.documents)

    @cached_property
    def memory(self) -> CorpusMemory:
        """The memories of all passages."""
        return self._model.compress(self.passages, self._folder, self._batch_size)

    def system(self, name: str) -> System:
        """Puts a system of `SYSTEMS` together.

        Raises:
            ValueError: the name is unknown, or the system needs a tuned model and there is none.
        """
        check_choice("system", name, SYSTEMS)
        recipe = SYSTEMS[name]
        if recipe.reader == "tuned" and self._tuned_model is None:
            raise ValueError(
                f"`{name}` reads with a model tuned on text, and none is given: make one with `clara train "
                "text_baseline` and name it with `--tuned-model`."
            )
        return System(
            self._retriever(recipe.retriever),
            self._reader(recipe.reader),
            self.passages,
            recipe.scope,
            self._k,
            self._max_new_tokens,
            self._seed if recipe.reader == "strangers" else None,
        )

    def settings(self, name: str) -> dict[str, Any]:
        """What decides the predictions of a system, as JSON values: the settings of `runner.run_system`."""
        recipe = SYSTEMS[name]
        settings = {
            "system": name,
            "benchmark": self._benchmark.name,
            "setting": self._benchmark.setting,
            "questions": self._benchmark.fingerprint(),
            "model": self._model.fingerprint(),
            "retrieval_top_k": self._k,
            "max_new_tokens": self._max_new_tokens,
        }
        if recipe.retriever == "dense":
            settings["encoder"] = self._encoder
        if recipe.reader in ("text", "cut", "none"):
            settings["text_model"] = self._text_model.fingerprint()
        if recipe.reader == "tuned":
            settings["text_model"] = self._tuned_model.fingerprint()
        if recipe.reader == "cut":
            settings["compression_rate"] = self._rate
        if recipe.reader == "strangers":
            settings["seed"] = self._seed
        return settings

    def bytes_per_passage(self, name: str) -> float:
        """Bytes that a system keeps of a passage to search and read it, without BM25's word index."""
        recipe = SYSTEMS[name]
        stored = self._reader(recipe.reader).bytes_per_passage
        if recipe.retriever == "clara" and recipe.reader not in ("memory", "strangers"):
            stored += memory_bytes(self.memory)
        if recipe.retriever == "dense":
            stored += self._dense.bytes_per_passage
        return stored

    def _retriever(self, name: str) -> Retriever | None:
        makers = {
            "none": lambda: None,
            "given": GivenRetriever,
            "clara": lambda: MemoryRetriever(self._model, self.memory),
            "bm25": lambda: self._bm25,
            "dense": lambda: self._dense,
        }
        return makers[name]()

    def _reader(self, name: str) -> Reader:
        makers = {
            "none": lambda: ClosedBookReader(self._text_model),
            "memory": lambda: MemoryReader(self._model, self.memory),
            "strangers": lambda: MemoryReader(self._model, self.memory),
            "text": lambda: TextReader(self._text_model, self.passages.texts),
            "tuned": lambda: TextReader(self._tuned_model, self.passages.texts),
            "cut": lambda: TextReader(self._text_model, self.passages.texts, self._rate),
        }
        if name not in self._readers:
            self._readers[name] = makers[name]()
        return self._readers[name]

    @cached_property
    def _bm25(self) -> BM25Retriever:
        return BM25Retriever(self.passages.texts)

    @cached_property
    def _dense(self) -> DenseRetriever:
        return DenseRetriever(self.passages.texts, load_sentence_encoder(self._encoder), show_progress=True)
