"""Documents in, corpus memory out: splitting, compressing in batches of similar length, storing, opening.

Letters of the shapes: N passages, T questions, M memory tokens, H hidden width.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .adapters_clara import adapter_names
from .configuration_clara import ADAPTERS
from .documents_clara import Document, Passages, to_passages
from .encoding_clara import evaluating, length_buckets
from .fingerprint_clara import model_fingerprint
from .formats_clara import format_name, read_dtype
from .index_questions_clara import learned_and_tests
from .memory_clara import CorpusMemory
from .passages_clara import check_passages
from .processing_clara import ClaraProcessor
from .recompute_clara import RECOMPUTE


class BuildingMixin:
    """How [`ClaraForRetrievalGeneration`] turns documents into a corpus memory; builds no autograd graph."""

    def memory_fingerprint(self) -> str:
        """Identity of what makes memories: base, compressor, memory tokens, pooling (no other adapter)."""
        return model_fingerprint(self)

    def memory_shape(self) -> tuple[int, int]:
        """(M, H) of a memory."""
        return self.config.num_memory_tokens, self.config.get_text_config().hidden_size

    def memory_base(self) -> dict[str, str | None]:
        """Name and revision of the base, as a corpus memory records them."""
        return {"name": self.config.base_model_name_or_path, "revision": self.config.base_model_revision}

    @torch.no_grad()
    def build_memory(
        self,
        documents: Sequence[Document],
        document_ids: Sequence[str] | None = None,
        metadata: Sequence[dict] | None = None,
        batch_size: int = 32,
        dtype: torch.dtype | str | None = None,
        show_progress: bool = True,
    ) -> CorpusMemory:
        """Compresses documents into a corpus memory.

        Args:
            documents: Strings, or mappings with `text` and optional `id`, `title`, metadata. A text above
                `doc_max_length` tokens is split into passages `{id}#0`, `{id}#1`, …
            document_ids: One id a document; "0", "1", … by default.
            metadata: One mapping a document.
            batch_size: Passages compressed at once, grouped by length.
            dtype: Format of the stored memories: a float dtype, "int8" or "int4"; the model's by default.
                "recompute" stores none and compresses passages when they are asked for.
            show_progress: Show a progress bar.

        Returns:
            A `CorpusMemory` of N passages.

        Raises:
            TypeError: If a document is not a text; names its index.
            ValueError: If a document is empty, an id occurs twice, or there is none.
        """
        passages = self.split_passages(documents, document_ids, metadata)
        return self.compress_passages(passages, batch_size, dtype, show_progress)

    def split_passages(
        self,
        documents: Sequence[Document],
        document_ids: Sequence[str] | None = None,
        metadata: Sequence[dict] | None = None,
    ) -> Passages:
        """Splits documents into passages without compressing them (the first half of `build_memory`)."""
        return to_passages(documents, self._processor().split_documents, document_ids, metadata)

    @torch.no_grad()
    def compress_passages(
        self,
        passages: Passages,
        batch_size: int = 32,
        dtype: torch.dtype | str | None = None,
        show_progress: bool = False,
    ) -> CorpusMemory:
        """Compresses passages that are split already (the second half of `build_memory`)."""
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        columns = (
            passages.texts,
            passages.document_ids,
            passages.metadata,
            passages.parents,
            passages.orders,
        )
        checked = check_passages(len(passages.texts), *columns)
        dtype = format_name(dtype or self.dtype)
        if dtype == RECOMPUTE:
            return CorpusMemory.of_texts(
                self.memory_shape(),
                checked,
                self.memory_fingerprint(),
                self.memory_base(),
                partial(self.compress_texts, dtype=torch.float32),
            )
        memory = self.compress_texts(passages.texts, batch_size, read_dtype(dtype), show_progress)
        return CorpusMemory(
            memory,
            *columns,
            dtype=dtype,
            fingerprint=self.memory_fingerprint(),
            base=self.memory_base(),
        )

    @torch.no_grad()
    def compress_texts(
        self,
        texts: list[str],
        batch_size: int = 32,
        dtype: torch.dtype | None = None,
        show_progress: bool = False,
    ) -> Tensor:
        """Texts of at most `doc_max_length` tokens to memories (N, M, H) on the CPU, by similar length."""
        processor = self._processor()
        memory = torch.empty(len(texts), *self.memory_shape(), dtype=dtype or self.dtype)
        with tqdm(total=len(texts), desc="compressing", unit="passage", disable=not show_progress) as bar:
            for rows in length_buckets(texts, batch_size):
                batch = processor.encode_documents([texts[row] for row in rows]).to(self.device)
                with self.lock, evaluating(self):
                    memory[rows] = self.compress(**batch).to(memory)
                bar.update(len(rows))
        return memory

    @torch.no_grad()
    def reason_texts(self, questions: list[str], batch_size: int = 32) -> Tensor:
        """Questions to their memories (T, M, H), float32 on the CPU, by similar length."""
        memory = torch.empty(len(questions), *self.memory_shape())
        for rows in length_buckets(questions, batch_size):
            memory[rows] = self._reason_texts([questions[row] for row in rows]).to(memory)
        return memory

    def _reason_texts(self, questions: list[str]) -> Tensor:
        """Questions to their memories (B, M, H) in one pass, on the model's device and in its dtype."""
        batch = self._processor().encode_questions(questions).to(self.device)
        with self.lock, evaluating(self):
            return self.reason(**batch)

    def build_index(
        self, memory: CorpusMemory, questions: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        """Builds the index of a corpus memory for questions as this model reads them.

        Args:
            memory: The corpus memory.
            questions: As of `index_questions`.
            **kwargs: Of [`CorpusMemory.build_index`]: `kind`, `dimensions`, `recall`, `seed`,
                `show_progress`.
        """
        learned, tests = self.index_questions(memory, questions)
        memory.build_index(questions=learned, tests=tests, **kwargs)

    def index_questions(
        self, memory: CorpusMemory, questions: Sequence[str] | None = None, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """What an index is learnt from and what it is tested with.

        Args:
            memory: The corpus memory; sentences of 1024 passages drawn from it stand for questions.
            questions: Real ones, at least 4, with which it does better: half of them, 256 at most, are for
                tests, the others are learnt from beside the sentences. None: an eighth of the sentences are
                for tests.
            seed: Of the sentences.

        Returns:
            Memories (T, M, H) to learn from, and (T', M, H) for tests.

        Raises:
            ValueError: If there are fewer than 4 questions.
        """
        learned, tests = learned_and_tests(memory, questions, seed)
        return self.reason_texts(learned), self.reason_texts(tests)

    def load_memory(self, path: str, **kwargs: Any) -> CorpusMemory:
        """Opens a stored corpus memory, a folder or a Hub dataset repository, made by this compressor.

        Raises:
            ValueError: If another compressor or base made it, or a file is missing, cut short or altered.
        """
        memory = CorpusMemory.from_pretrained(path, fingerprint=self.memory_fingerprint(), **kwargs)
        memory.attach(partial(self.compress_texts, dtype=torch.float32))
        return memory

    def _processor(self) -> ClaraProcessor:
        if self.processor is None:
            raise ValueError(
                "This model has no processor for text: load it with from_pretrained or from_base."
            )
        missing = set(ADAPTERS) - set(adapter_names(self.decoder))
        if missing:
            raise ValueError(
                f"This model lacks its adapters {sorted(missing)}: load it with from_pretrained."
            )
        return self.processor
