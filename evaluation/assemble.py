"""The workbench: puts systems together by name and shares what they need, each part made once."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from clara.memory_clara import CorpusMemory
from clara.processing_clara import Passages

from .baselines import BM25Retriever, DenseRetriever, Retriever, load_sentence_encoder
from .benchmarks import Benchmark, check_choice
from .language_models import ClaraModel, TextModel
from .readers import ClosedBookReader, MemoryReader, Reader, TextReader, vector_bytes
from .retrievers import GivenRetriever, HybridRetriever, MemoryRetriever
from .systems import SYSTEMS, Recipe, System


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
        open_corpus: opens the memories in another back end, to search the whole corpus; None: they are
            searched as they are.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        model: ClaraModel,
        text_model: TextModel,
        retrieval_top_k: int = 5,
        max_new_tokens: int = 64,
        compression_rate: int = 16,
        encoder: str | None = None,
        memory_folder: Path | None = None,
        batch_size: int = 32,
        seed: int = 0,
        tuned_model: TextModel | None = None,
        open_corpus: Callable[[CorpusMemory], Any] | None = None,
    ) -> None:
        self._tuned_model, self._open_corpus = tuned_model, open_corpus
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

    @cached_property
    def corpus(self) -> Any:
        """The memories as they are searched in the scope `corpus`."""
        return self.memory if self._open_corpus is None else self._open_corpus(self.memory)

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
            self._retriever(recipe),
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
        if self._open_corpus is not None and recipe.searches_corpus_memories:
            settings["back_end"] = "another"
        return settings

    def bytes_per_passage(self, name: str) -> float:
        """Bytes that a system keeps of a passage to search and read it, without BM25's word index."""
        recipe = SYSTEMS[name]
        stored = self._reader(recipe.reader).bytes_per_passage
        if recipe.retriever in ("clara", "hybrid"):
            stored += vector_bytes(self.memory)
        if recipe.retriever == "dense":
            stored += self._dense.bytes_per_passage
        return stored

    def _retriever(self, recipe: Recipe) -> Retriever | None:
        makers = {
            "none": lambda: None,
            "given": GivenRetriever,
            "clara": lambda: self._memories(recipe),
            "bm25": lambda: self._bm25,
            "hybrid": lambda: HybridRetriever(self._memories(recipe), self._bm25, len(self.passages.texts)),
            "dense": lambda: self._dense,
        }
        return makers[recipe.retriever]()

    def _memories(self, recipe: Recipe) -> MemoryRetriever:
        memory = self.corpus if recipe.searches_corpus_memories else self.memory
        return MemoryRetriever(self._model, memory)

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
