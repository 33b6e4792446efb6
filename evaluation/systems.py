"""Systems under one interface: a retriever, a reader and where to search, put together by name.

| part | choices |
|---|---|
| retriever | `clara` (cosine of vectors), `bm25`, `hybrid` (both), `dense`, `given` (pool order), none |
| reader | `memory`, `each` (memory by memory, the likeliest answer), `strangers` (memories from outside the |
| | pool), `text`, `tuned` (text, by a tuned model), `cut` (first tokens only), none |
| scope | `pool` (the question's candidates) or `corpus` (all passages of the benchmark) |
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from clara.memory_clara import CorpusMemory
from clara.processing_clara import Passages, reading_order
from clara.store.ranking import DEPTH

from .benchmarks import Benchmark, Example, check_choice
from .language_models import ClaraModel, TextModel
from .readers import MemoryReader, NoReader, Reader, TextReader
from .retrievers import (
    GivenRetriever,
    HybridRetriever,
    MemoryRetriever,
    Retriever,
    ScoreRetriever,
    bm25_retriever,
    dense_retriever,
    load_sentence_encoder,
)


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
    "clara_each": Recipe("clara", "each"),
    "clara_corpus": Recipe("clara", "memory", "corpus"),
    "clara_each_corpus": Recipe("clara", "each", "corpus"),
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

DEPENDS_ON = {  # what decides the answers beside benchmark, model and numbers, by part
    "dense": ("encoder",),
    "text": ("text_model",),
    "none": ("text_model",),
    "cut": ("text_model", "compression_rate"),
    "tuned": ("tuned_model",),
    "strangers": ("seed",),
}


@dataclass(frozen=True)
class Prediction:
    """What a system answered to one question."""

    id: str  # the example's
    answer: str  # generated text
    documents: tuple[int, ...]  # parents of the passages read, best first; a split one may recur
    scores: tuple[float, ...]  # of these passages, by the retriever; empty without one
    tokens_read: int  # length of the generator's prompt, memory slots included


@dataclass(frozen=True)
class Found:
    """What a system is to read for one question."""

    example: Example
    scores: tuple[float, ...]  # of the passages found, best first
    passages: tuple[int, ...]  # found, best first
    to_read: tuple[int, ...]  # passages in reading order
    size: int  # how much that is to read, in units of the reader; alike sizes belong into one batch


@dataclass
class Workbench:
    """Everything the systems share, made once and only when a system needs it.

    `open_corpus` opens the memories in another back end, to search the whole corpus there.
    """

    benchmark: Benchmark  # questions and documents
    model: ClaraModel  # compresses, reasons and answers from memories
    text_model: TextModel  # answers from text
    retrieval_top_k: int = 5  # most passages read for a question
    max_new_tokens: int = 64  # longest answer
    compression_rate: int = 16  # of the reader `cut`
    encoder: str | None = None  # folder or Hub id of the sentence encoder; None: all-MiniLM-L6-v2
    memory_folder: Path | None = None  # where the memories are kept between runs; None: nowhere
    seed: int = 0  # of the reader `strangers`
    tuned_model: TextModel | None = None  # reads text, which it was tuned on, for the reader `tuned`
    search_only: bool = False  # find passages, and answer nothing
    open_corpus: Callable[[CorpusMemory], Any] | None = None
    _readers: dict[str, Reader] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def passages(self) -> Passages:
        """The benchmark's documents, split where they are too long for the compressor."""
        return self.model.split(self.benchmark.documents)

    @cached_property
    def memory(self) -> CorpusMemory:
        """The memories of all passages."""
        return self.model.compress(self.passages, self.memory_folder)

    @cached_property
    def corpus(self) -> Any:
        """The memories as they are searched in the scope `corpus`."""
        return self.memory if self.open_corpus is None else self.open_corpus(self.memory)

    @cached_property
    def parts(self) -> dict[int, list[int]]:
        """The passages of each document."""
        parts: dict[int, list[int]] = {}
        for passage, parent in enumerate(self.passages.parents):
            parts.setdefault(int(parent), []).append(passage)
        return parts

    def system(self, name: str) -> "System":
        """Puts a system of `SYSTEMS` together; a ValueError if it is unknown, or lacks its tuned model."""
        check_choice("system", name, SYSTEMS)
        recipe = SYSTEMS[name]
        if recipe.reader == "tuned" and self.tuned_model is None:
            raise ValueError(
                f"`{name}` reads with a model tuned on text, and none is given: make one with `clara train "
                "text_baseline` and name it with `--tuned-model`."
            )
        return System(self, recipe, self._retriever(recipe), self._reader(recipe.reader))

    def settings(self, name: str) -> dict[str, Any]:
        """What decides the predictions of a system, as JSON values: the settings of `runner.run_system`."""
        recipe = SYSTEMS[name]
        settings = {
            "system": name,
            "benchmark": self.benchmark.name,
            "setting": self.benchmark.setting,
            "questions": self.benchmark.fingerprint(),
            "model": self.model.fingerprint(),
            "retrieval_top_k": self.retrieval_top_k,
            "max_new_tokens": self.max_new_tokens,
        }
        for part in (*DEPENDS_ON.get(recipe.retriever, ()), *DEPENDS_ON.get(recipe.reader, ())):
            value = getattr(self, part)
            settings[part] = value.fingerprint() if part.endswith("_model") else value
        if self.search_only:
            settings["search_only"] = True
        if self.open_corpus is not None and recipe.searches_corpus_memories:
            settings["back_end"] = "another"
        return settings

    def bytes_per_passage(self, name: str) -> float:
        """Bytes that a system keeps of a passage to search and read it, without BM25's word index."""
        recipe = SYSTEMS[name]
        stored = self._reader(recipe.reader).bytes_per_passage
        if recipe.retriever in ("clara", "hybrid"):
            stored += self.memory.vectors.nbytes / len(self.memory)
        if recipe.retriever == "dense":
            stored += self._dense.bytes_per_passage
        return stored

    def _retriever(self, recipe: Recipe) -> Retriever | None:
        def memories() -> MemoryRetriever:
            return MemoryRetriever(
                self.model, self.corpus if recipe.searches_corpus_memories else self.memory
            )

        depth = min(DEPTH, len(self.passages.texts))
        makers = {
            "none": lambda: None,
            "given": GivenRetriever,
            "clara": memories,
            "bm25": lambda: self._bm25,
            "hybrid": lambda: HybridRetriever(memories(), self._bm25, depth),
            "dense": lambda: self._dense,
        }
        return makers[recipe.retriever]()

    def _reader(self, name: str) -> Reader:
        texts = self.passages.texts
        if self.search_only:
            return NoReader()
        makers = {
            "none": lambda: TextReader(self.text_model),
            "memory": lambda: MemoryReader(self.model, self.memory),
            "each": lambda: MemoryReader(self.model, self.memory, each=True),
            "strangers": lambda: MemoryReader(self.model, self.memory),
            "text": lambda: TextReader(self.text_model, texts),
            "tuned": lambda: TextReader(self.tuned_model, texts),
            "cut": lambda: TextReader(self.text_model, texts, self.compression_rate),
        }
        if name not in self._readers:
            self._readers[name] = makers[name]()
        return self._readers[name]

    @cached_property
    def _bm25(self) -> ScoreRetriever:
        return bm25_retriever(self.passages.texts)

    @cached_property
    def _dense(self) -> ScoreRetriever:
        encoder = load_sentence_encoder(self.encoder)
        return dense_retriever(self.passages.texts, encoder, show_progress=True)


@dataclass
class System:
    """Retrieves for each question and answers from what was retrieved.

    Attributes:
        bench: documents, passages and numbers.
        recipe: what the system is made of. The reader `strangers` gets as many passages drawn from outside
            the question's pool and its positives in place of those found (a control: what an answer owes to
            its memories).
        retriever: finds passages; None: nothing is retrieved.
        reader: answers from them.
    """

    bench: Workbench
    recipe: Recipe
    retriever: Retriever | None
    reader: Reader

    def find(self, examples: Sequence[Example]) -> list[Found]:
        """Searches for B questions in one batch, and measures what is to be read."""
        found = []
        for example, (scores, passages) in zip(examples, self._search(examples), strict=True):
            to_read = self._to_read(example, passages)
            size = self.reader.size(example.question, to_read)
            found.append(Found(example, tuple(scores), tuple(passages), tuple(to_read), size))
        return found

    def read(self, found: Sequence[Found]) -> list[Prediction]:
        """Answers B questions in one batch from what was found for them."""
        questions = [item.example.question for item in found]
        to_read, scores = [item.to_read for item in found], [item.scores for item in found]
        readings = self.reader.answer(questions, to_read, self.bench.max_new_tokens, scores)
        return [
            Prediction(
                id=item.example.id,
                answer=answer,
                documents=tuple(int(self.bench.passages.parents[passage]) for passage in item.passages),
                scores=item.scores,
                tokens_read=tokens_read,
            )
            for item, (answer, tokens_read) in zip(found, readings, strict=True)
        ]

    def _to_read(self, example: Example, found: list[int]) -> list[int]:
        if self.recipe.reader == "each":
            return list(found)
        if self.recipe.reader != "strangers":
            return reading_order(self.bench.passages, found)
        own = {
            part for document in (*example.pool, *example.positives) for part in self.bench.parts[document]
        }
        strangers = [passage for passage in range(len(self.bench.passages.texts)) if passage not in own]
        if len(strangers) < len(found):
            raise ValueError(
                f"question {example.id}: only {len(strangers)} passages lie outside its pool, {len(found)} "
                "are needed for the control. Evaluate more questions, or leave `clara_shuffled` out."
            )
        draw = np.random.default_rng([self.bench.seed, zlib.crc32(example.id.encode())])
        return draw.choice(strangers, size=len(found), replace=False).tolist()

    def _search(self, examples: Sequence[Example]) -> list[tuple[list[float], list[int]]]:
        """For each of B questions the scores and the passages found, best first."""
        if self.retriever is None:
            return [([], [])] * len(examples)
        pools = None
        if self.recipe.scope == "pool":
            pools = [
                [part for document in example.pool for part in self.bench.parts[document]]
                for example in examples
            ]
        questions = [example.question for example in examples]
        rows = zip(*self.retriever.search(questions, self.bench.retrieval_top_k, pools), strict=True)
        return [(scores[row >= 0].tolist(), row[row >= 0].tolist()) for scores, row in rows]
