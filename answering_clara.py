"""Text in, text out: retrieving from a corpus memory, answering from it, paraphrasing a memory.

Letters of the shapes: B questions, N passages, K chosen, M memory tokens, H hidden width, L tokens.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .adapters_clara import wearing
from .building_clara import BuildingMixin
from .documents_clara import (
    Document,
    check_texts,
    is_document,
    pool_order,
    reading_order,
    to_passages,
)
from .encoding_clara import evaluating
from .filters_clara import Where
from .memory_clara import CorpusMemory, is_corpus_memory
from .outputs_clara import ClaraGenerateOutput, RetrievalOutput, first
from .prompts_clara import paraphrase_prompt
from .words_clara import hybrid_search

Memory = CorpusMemory | Sequence[Document] | Sequence[Sequence[Document]]


class AnsweringMixin(BuildingMixin):
    """The text interface of [`ClaraForRetrievalGeneration`]; nothing here builds an autograd graph."""

    @torch.no_grad()
    def retrieve(
        self,
        questions: str | Sequence[str],
        memory: CorpusMemory,
        retrieval_top_k: int | None = None,
        where: Where | None = None,
        exact: bool | None = None,
        hybrid: float | bool | None = None,
    ) -> RetrievalOutput:
        """Finds the passages whose memories are nearest to each question's memory by cosine.

        Args:
            questions: One question or B of them.
            memory: A corpus memory of N passages made by this model.
            retrieval_top_k: K passages a question; `min(config.retrieval_top_k, N)` by default.
            where: Which passages may be found, by their metadata; see `filters_clara`.
            exact: True: score all passages. False: use the memory's index. None: the index if there is one.
            hybrid: Weight, from 0 to 1, of the words' ranks (BM25), which are fused with those of the
                memories; True: a half. None or False: memories alone.

        Returns:
            Flat lists and scores (K,) for one question, nested lists and (B, K) for several; fewer
            than K passages if fewer pass `where`. Scores are cosines; with `hybrid` the order is that of the
            fused ranks.

        Raises:
            ValueError: If K is below 1 or above N, a question is empty or too long, another model made the
                memory, or the weight is out of range.
            ModuleNotFoundError: If `hybrid` is asked for without bm25s.
        """
        self._check_memory(memory)
        texts = check_texts([questions] if isinstance(questions, str) else questions, "questions")
        options = _options(where, exact, hybrid)
        scores, indices = self._search(texts, self._reason_texts(texts), memory, retrieval_top_k, options)
        found = RetrievalOutput(
            document_ids=[[memory.document_ids[i] for i in row] for row in indices.tolist()],
            indices=indices.tolist(),
            scores=scores,
        )
        return first(found) if isinstance(questions, str) else found

    def _search(
        self,
        questions: list[str],
        query: Tensor,
        memory: CorpusMemory,
        k: int | None,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        k = min(self.config.retrieval_top_k, len(memory)) if k is None else k
        query = query[:, : memory.num_memory_tokens]
        if "hybrid" in options:
            return hybrid_search(memory, questions, query, k, **options)
        scores, indices = memory.search(query, k, **options)
        return scores.cpu(), indices.cpu()

    @torch.no_grad()
    def generate(
        self,
        questions: str | Sequence[str] | Tensor | None = None,
        memory: Memory | None = None,
        retrieval_top_k: int | None = None,
        where: Where | None = None,
        exact: bool | None = None,
        hybrid: float | bool | None = None,
        **kwargs: Any,
    ) -> str | list[str] | ClaraGenerateOutput:
        """Answers questions from the memories nearest to them.

        Args:
            questions: One question or B of them.
            memory: A corpus memory; or texts, compressed on the way; or one list of texts for each question.
            retrieval_top_k: K passages given to the generator; `min(config.retrieval_top_k, N)` by default.
            where: As of `retrieve`.
            exact: As of `retrieve`.
            hybrid: As of `retrieve`.
            **kwargs: Ordinary generation arguments (max_new_tokens, num_beams, streamer, …);
                `return_dict_in_generate=True` returns a `ClaraGenerateOutput`.

        Returns:
            A text for one question, a list of texts for several, or a `ClaraGenerateOutput`. Without `memory`
            this is the base's own `generate` on token ids.

        Raises:
            ValueError: As `retrieve` and `build_memory`, for an unknown keyword, or a prompt above the limit.
        """
        if memory is None:
            asked = retrieval_top_k is not None or bool(_options(where, exact, hybrid))
            if asked or not isinstance(questions, (Tensor, type(None))):
                raise ValueError(
                    "`memory` is missing: give a corpus memory or a list of texts to answer from."
                )
            with self.lock:
                return (
                    super().generate(**kwargs) if questions is None else super().generate(questions, **kwargs)
                )
        texts = check_texts([questions] if isinstance(questions, str) else questions, "questions")
        with_dict = kwargs.pop("return_dict_in_generate", False)
        with self.lock:
            options = _options(where, exact, hybrid)
            found, embeds, mask = self._embed(texts, memory, retrieval_top_k, options)
            generation = self._generate_from(embeds, mask, **kwargs)
        answers = self._decode(generation.sequences, len(texts))
        out = ClaraGenerateOutput(
            answers=answers, sequences=generation.sequences, generation=generation, **dict(found.items())
        )
        out = first(out) if isinstance(questions, str) else out
        return out if with_dict else out.answers

    @torch.no_grad()
    def embed_prompts(
        self, questions: Sequence[str], memory: Memory, retrieval_top_k: int | None = None
    ) -> tuple[RetrievalOutput, Tensor, Tensor]:
        """What `generate` reads: retrieves, and fills the prompts' slots with the chosen memories.

        The worn generator, or the base with the generator merged into it, answers from these embeddings.

        Args:
            questions: B questions.
            memory: As in `generate`.
            retrieval_top_k: K; `min(config.retrieval_top_k, N)` by default.

        Returns:
            What was found (nested lists), input embeddings (B, L, H) and attention mask (B, L), padded on the
            left.

        Raises:
            ValueError: As `generate`.
        """
        texts = check_texts(list(questions), "questions")
        with self.lock:
            return self._embed(texts, memory, retrieval_top_k, {})

    def _embed(
        self, texts: list[str], memory: Memory, k: int | None, options: dict[str, Any]
    ) -> tuple[RetrievalOutput, Tensor, Tensor]:
        found, chosen = self._find(texts, self._pools(memory, len(texts)), k, options)
        counts, size = [len(rows) for rows in chosen], chosen[0].shape[1]
        prompts = self._processor().encode_prompts(texts, counts, num_memory_tokens=size)
        return found, *self._filled(prompts, torch.cat([rows.flatten(0, 1) for rows in chosen]))

    def _filled(self, prompts: dict[str, Tensor], memory: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and mask of prompts whose slots take `memory` (slots, H)."""
        prompts = prompts.to(self.device)
        embeds = self.fill_slots(prompts["input_ids"], memory.to(self.device))
        return embeds, prompts["attention_mask"]

    def _pools(self, memory: Memory, count: int) -> list[CorpusMemory]:
        """The memory each question searches: one for all, or one compressed pool a question."""
        if is_corpus_memory(memory):
            self._check_memory(memory)
            return [memory] * count
        if is_document(memory) or all(is_document(item) for item in memory):
            return [self.build_memory(memory, show_progress=False)] * count
        if len(memory) != count:
            raise ValueError(
                f"`memory` has {len(memory)} lists of texts for {count} questions: give one list a question."
            )
        return [self.build_memory(pool, show_progress=False) for pool in memory]

    def _find(
        self, questions: list[str], pools: list[CorpusMemory], k: int | None, options: dict[str, Any]
    ) -> tuple[RetrievalOutput, list[Tensor]]:
        """What was found, and for each question its memories (K, M, H) in prompt order."""
        query = self._reason_texts(questions)
        groups: dict[int, list[int]] = defaultdict(list)
        for row, pool in enumerate(pools):
            groups[id(pool)].append(row)
        scores: list[Tensor] = [torch.empty(0)] * len(pools)
        indices: list[list[int]] = [[]] * len(pools)
        for rows in groups.values():
            asked, pool = [questions[row] for row in rows], pools[rows[0]]
            group_scores, group_indices = self._search(asked, query[rows], pool, k, options)
            for row, row_scores, row_indices in zip(rows, group_scores, group_indices.tolist(), strict=True):
                scores[row], indices[row] = row_scores, row_indices
        if not all(indices):
            raise ValueError(f"`where` {options['where']!r} lets no passage through: nothing to answer from.")
        order = reading_order if self.config.memory_order == "score" else pool_order
        chosen = [
            pool.gather(torch.tensor([order(pool, row)]))[0] for pool, row in zip(pools, indices, strict=True)
        ]
        found = RetrievalOutput(
            document_ids=[
                [pool.document_ids[i] for i in row] for pool, row in zip(pools, indices, strict=True)
            ],
            indices=indices,
            scores=torch.nn.utils.rnn.pad_sequence(scores, batch_first=True, padding_value=float("-inf")),
        )
        return found, chosen

    def _generate_from(self, embeds: Tensor, mask: Tensor, **kwargs: Any) -> ModelOutput:
        """Generates from prompt embeddings (B, L, H), wearing the generator; the caller holds the lock."""
        with evaluating(self), wearing(self.decoder, "generator"):
            return super().generate(
                inputs_embeds=embeds, attention_mask=mask, return_dict_in_generate=True, **kwargs
            )

    def _decode(self, sequences: Tensor, count: int) -> list:
        texts = self._processor().tokenizer.batch_decode(sequences, skip_special_tokens=True)
        answers = [text.strip() if self.config.strip_answers else text for text in texts]
        each = len(answers) // count
        return answers if each == 1 else [answers[i * each : (i + 1) * each] for i in range(count)]

    @torch.no_grad()
    def paraphrase(self, documents: Document | Sequence[Document], **kwargs: Any) -> str | list[str]:
        """Says what a document's memory alone still holds (the paper's paraphrase task).

        Args:
            documents: One document or several.
            **kwargs: Ordinary generation arguments.

        Returns:
            One text a document; a single document gives a text.
        """
        single = is_document(documents)
        passages = to_passages(documents, self._processor().split_documents)
        counts = [passages.parents.count(parent) for parent in dict.fromkeys(passages.parents)]
        with self.lock:
            memory = self.compress_texts(passages.texts)
            prompt = paraphrase_prompt(self.config.prompt_style)
            prompts = self._processor().encode_messages([prompt] * len(counts), counts)
            generation = self._generate_from(*self._filled(prompts, memory.flatten(0, 1)), **kwargs)
        answers = self._decode(generation.sequences, len(counts))
        return answers[0] if single else answers

    def _check_memory(self, memory: CorpusMemory) -> None:
        if not is_corpus_memory(memory):
            raise TypeError(
                f"`memory` must be a corpus memory of `build_memory`, got {type(memory).__name__}."
            )
        if memory.fingerprint is not None and memory.fingerprint != self.memory_fingerprint():
            raise ValueError(
                "`memory` was made by another compressor or base than this model's: "
                "build it again with this model, or load the model that made it."
            )


def _options(where: Where | None, exact: bool | None, hybrid: float | bool | None) -> dict[str, Any]:
    """What a search is told beyond its query and K; nothing that was not asked for."""
    asked = {"where": where, "exact": exact, "hybrid": None if hybrid is False else hybrid}
    return {name: value for name, value in asked.items() if value is not None}
