"""Text in, text out: building a memory, retrieving from it, answering from it, saying what it holds.

The letters of shapes are those of retrieval_clara.
"""

import importlib
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers.utils import ModelOutput

from .adapters_clara import adapter_names, evaluating, model_fingerprint, wearing
from .configuration_clara import ADAPTERS
from .memory_clara import CorpusMemory, check_passages, is_corpus_memory
from .processing_clara import (
    ClaraProcessor,
    Document,
    Passages,
    check_no_path,
    check_texts,
    is_document,
    is_path,
    reading_order,
    to_passages,
)
from .prompts_clara import (
    NOT_FOUND,
    answer_odds,
    choose_answers,
    length_buckets,
    may_be_passed,
    paraphrase_prompt,
    plain_ids,
    refusals_last,
)
from .retrieval_clara import FLOATS, ClaraGenerateOutput, RetrievalOutput, first, format_name

Memory = Any  # a corpus memory (the protocol of memory_clara), a folder of one, texts, or a list a question


class TextInterface:
    """The text interface of [`ClaraForRetrievalGeneration`]; nothing here builds an autograd graph."""

    def memory_fingerprint(self) -> str:
        """Identity of what makes memories: base, compressor, memory tokens, pooling (no other adapter)."""
        return model_fingerprint(self)

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
            show_progress: Show a progress bar.

        Raises:
            TypeError: If a document is not a text; names its index.
            ValueError: If a document is empty or a path, an id occurs twice, or there is none.
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
        tick: Callable[[int], Any] | None = None,
    ) -> CorpusMemory:
        """Compresses split passages (second half of `build_memory`); `tick` is told the sizes of batches."""
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        columns = tuple(vars(passages).values())
        check_passages(len(passages.texts), *columns)
        dtype = format_name(dtype or self.dtype)
        values, offsets, vectors = self.compress_texts(passages.texts, batch_size, show_progress, tick)
        values = values.to(FLOATS.get(dtype, torch.float32))
        made_by = {"fingerprint": self.memory_fingerprint(), "base": self.memory_base()}
        return CorpusMemory(values, *columns, offsets=offsets, vectors=vectors, dtype=dtype, **made_by)

    @torch.no_grad()
    def compress_texts(
        self, texts: Sequence[str], batch_size: int = 32, show_progress: bool = False, tick: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compresses texts of at most `doc_max_length` tokens, in batches of similar length.

        Returns:
            On the CPU: the vectors of all memories, one memory after the other, (T, H) in the model's dtype;
            where each begins and ends, (N + 1,) int64; their search vectors, (N, D) float32.
        """
        processor = self._processor()
        rows, vectors = [torch.empty(0)] * len(texts), [torch.empty(0)] * len(texts)
        with tqdm(total=len(texts), desc="compressing", unit="passage", disable=not show_progress) as bar:
            for batch in length_buckets(texts, batch_size):
                encoded = processor.encode_documents([texts[row] for row in batch]).to(self.device)
                with self.lock, evaluating(self):
                    memories = self.compress(**encoded)
                parts = memories.rows().cpu().split(memories.counts.tolist())
                for row, part, vector in zip(batch, parts, self.search_vectors(memories).cpu(), strict=True):
                    rows[row], vectors[row] = part, vector
                bar.update(len(batch))
                if tick is not None:
                    tick(len(batch))
        offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
        return torch.cat(rows), offsets, torch.stack(vectors)

    def load_memory(self, path: str, **kwargs: Any) -> Any:
        """Opens a stored memory or store, in a folder or on the Hub, that this compressor made.

        Raises a ValueError if another compressor made it, or a file is missing, cut short or altered.
        """
        if not os.path.isdir(os.path.join(path, "_versions")):
            return CorpusMemory.from_pretrained(path, fingerprint=self.memory_fingerprint(), **kwargs)
        store = importlib.import_module("clara.store").CorpusStore
        return store.open(path, self.memory_fingerprint(), create=False, **kwargs)

    @torch.no_grad()
    def question_vectors(self, questions: Sequence[str], batch_size: int = 32) -> Tensor:
        """Search vectors (B, D) of questions, float32 on the CPU, in batches of similar length."""
        found: list[Tensor] = [torch.empty(0)] * len(questions)
        for batch in length_buckets(questions, batch_size):
            encoded = self._processor().encode_questions([questions[row] for row in batch]).to(self.device)
            with self.lock, evaluating(self):
                memories = self.reason(**encoded)
            for row, vector in zip(batch, self.search_vectors(memories).cpu(), strict=True):
                found[row] = vector
        return torch.stack(found)

    @torch.no_grad()
    def retrieve(
        self,
        questions: str | Sequence[str],
        memory: Any,
        retrieval_top_k: int | None = None,
        where: Any = None,
        exact: bool | None = None,
        hybrid: float | bool | None = None,
    ) -> RetrievalOutput:
        """Finds the passages whose search vectors are nearest to each question's by cosine.

        Args:
            questions: One question or B of them.
            memory: A corpus memory or store of N passages made by this model.
            retrieval_top_k: K passages a question; `min(config.retrieval_top_k, N)` by default.
            where: Which passages may be found, by their metadata: a mapping, or SQL text for a `CorpusStore`.
            exact: True: score all passages. False: use the store's index. None: as the store decides.
            hybrid: Weight, from 0 to 1, of words (BM25), whose scores are added to the cosines, each on a
                scale from 0 to 1; True: a half. None or False: vectors alone.

        Returns:
            Flat lists and scores (K,) for one question, nested lists and (B, K) for several; fewer
            than K passages if fewer pass `where`. Scores are cosines; with `hybrid` the order is that of the
            sums.

        Raises:
            ValueError: If K is below 1 or above N, a question is empty or too long, another model made the
                memory, or the weight is out of range.
            ModuleNotFoundError: If `hybrid` is asked for without bm25s.
        """
        memory = self._opened(memory)
        texts = check_texts(questions, "questions")
        pools, options = [memory] * len(texts), _options(where, exact, hybrid)
        found = self._search(texts, pools, retrieval_top_k, options)
        return first(found) if isinstance(questions, str) else found

    def _search(
        self, questions: list[str], pools: list, k: int | None, options: dict[str, Any]
    ) -> RetrievalOutput:
        """What each question finds in its pool; neighbouring questions of one pool search it at once."""
        vectors, indices, scores = self.question_vectors(questions), [], []
        for _, group in itertools.groupby(range(len(pools)), key=lambda row: id(pools[row])):
            rows = list(group)
            pool = pools[rows[0]]
            most = min(self.config.retrieval_top_k, len(pool)) if k is None else k
            asked = [questions[row] for row in rows]
            found = pool.search(vectors[rows], most, questions=asked, **options)
            scores.extend(found[0].cpu())
            indices.extend(found[1].tolist())
        ids = [[pool.document_ids[i] for i in row] for pool, row in zip(pools, indices, strict=True)]
        padded = pad_sequence(scores, batch_first=True, padding_value=float("-inf"))
        return RetrievalOutput(document_ids=ids, indices=indices, scores=padded)

    @torch.no_grad()
    def generate(
        self,
        questions: str | Sequence[str] | Tensor | None = None,
        memory: Memory = None,
        retrieval_top_k: int | None = None,
        where: Any = None,
        exact: bool | None = None,
        hybrid: float | bool | None = None,
        reading: str | None = None,
        min_score: float | None = None,
        **kwargs: Any,
    ) -> str | list[str] | ClaraGenerateOutput:
        """Answers questions from the memories nearest to them.

        Args:
            questions: One question or B of them.
            memory: A corpus memory or store, or the folder of a stored memory; or texts, compressed on the
                way; or one list of texts for each question.
            retrieval_top_k: K passages given to the generator; `min(config.retrieval_top_k, N)` by default.
            where: As of `retrieve`.
            exact: As of `retrieve`.
            hybrid: As of `retrieve`.
            reading: "together": the generator reads the K memories in one prompt (the paper). "each": it
                answers from each alone, greedily, and from all of them where `config.reading_joint` is set;
                the answer stays that is likeliest with its passage, or `NOT_FOUND` where no memory holds one
                (`config.reading_min_score`). Default: `config.reading`, or "together" with beams or
                sampling. A streamer gets the answer of "each" in one piece.
            min_score: A question whose best passage has a lower cosine is answered with `NOT_FOUND`;
                `config.retrieval_min_score` by default.
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
                inputs = [] if questions is None else [questions]
                return super().generate(*inputs, **kwargs)
        texts = check_texts(questions, "questions")
        reading = self.config.way_of_reading(reading, kwargs)
        with_dict = kwargs.pop("return_dict_in_generate", False)
        with self.lock:
            options = _options(where, exact, hybrid)
            found, chosen = self._find(texts, memory, retrieval_top_k, options, reading)
            generation = self.read_memories(texts, chosen, found.scores, reading, **kwargs)
        answers = self._decode(generation.sequences, len(texts))
        least = self.config.retrieval_min_score if min_score is None else min_score
        if least is not None:
            near = (found.scores.amax(dim=1) >= least).tolist()
            answers = [text if enough else NOT_FOUND for text, enough in zip(answers, near, strict=True)]
        out = ClaraGenerateOutput(
            answers=answers, sequences=generation.sequences, generation=generation, **dict(found.items())
        )
        out = first(out) if isinstance(questions, str) else out
        return out if with_dict else out.answers

    @torch.no_grad()
    def embed_prompts(
        self, questions: Sequence[str], memory: Memory, retrieval_top_k: int | None = None, **options: Any
    ) -> tuple[RetrievalOutput, Tensor, Tensor]:
        """What `generate` reads: retrieves, and fills the prompts' slots with the chosen memories.

        The worn generator, or the base with the generator merged into it, answers from these embeddings.
        Arguments are those of `generate`, `where`, `exact` and `hybrid` among the options.

        Returns:
            What was found (nested lists), input embeddings (B, L, H) and mask (B, L), padded on the left.
        """
        texts = check_texts(questions, "questions")
        with self.lock:
            found, chosen = self._find(texts, memory, retrieval_top_k, options)
            return found, *self.embed_answers(texts, chosen)

    @torch.no_grad()
    def read_memories(
        self, texts: list[str], chosen: list[list[Tensor]], scores: Tensor, reading: str, **options: Any
    ) -> ModelOutput:
        """Generates from B questions' memories (m, H), chosen with scores (B, K); see `generate`."""
        if reading == "together":
            return self._generate_from(*self.embed_answers(texts, chosen), **options)
        least, joint = self.config.reading_min_score, self.config.reading_joint
        streamer, tokenizer = options.pop("streamer", None), self._processor().tokenizer
        refusal = plain_ids(tokenizer, [NOT_FOUND])[0]
        if least is not None:
            options["begin_suppress_tokens"] = [*(options.get("begin_suppress_tokens") or []), refusal[0]]
        asked = [(text, [memory]) for text, row in zip(texts, chosen, strict=True) for memory in row]
        alone = iter(self._said(asked, refusal[0], options))
        answers = [list(itertools.islice(alone, len(row))) for row in chosen]
        places = self._places(answers, scores)
        likely = [torch.stack([said for _, said, _ in row]) for row in answers]
        left = [row for row, place in enumerate(places) if place is not None]
        left = [row for row in left if may_be_passed(likely[row], scores[row], joint)]
        if left:  # these are read together too, since that answer may be the one that is told
            asked = [(texts[row], chosen[row]) for row in left]
            for row, answer in zip(left, self._said(asked, refusal[0], options), strict=True):
                answers[row].append(answer)
            places = self._places(answers, scores)
        none = torch.tensor([*refusal, tokenizer.eos_token_id]).to(answers[0][0][0])
        told = [none if place is None else row[place][0] for row, place in zip(answers, places, strict=True)]
        sequences = pad_sequence(told, batch_first=True, padding_value=tokenizer.eos_token_id)
        if streamer is not None:
            streamer.put(sequences.cpu())
            streamer.end()
        return ModelOutput(sequences=sequences)

    def _places(self, answers: list[list[tuple[Tensor, Tensor, Tensor]]], scores: Tensor) -> list[int | None]:
        """Which of each question's answers is told."""
        _, likely, odds = zip(*itertools.chain(*answers), strict=True)
        limits = (self.config.reading_min_score, self.config.reading_joint)
        counts = [len(row) for row in answers]
        return choose_answers(torch.stack(likely), torch.stack(odds), counts, scores, *limits)

    def _said(
        self, asked: list[tuple[str, list[Tensor]]], refusal: int, options: dict[str, Any]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Answers to questions from memories: ids, their mean log probability, and the odds of an answer."""
        embeds, mask = self.embed_answers(*zip(*asked, strict=True))
        generation = self._generate_from(embeds, mask, output_logits=True, **options)
        sequences, logits = generation.sequences, generation.logits
        taken = self.decoder.compute_transition_scores(sequences, logits, normalize_logits=True)
        ends = torch.tensor(self.generation_config.eos_token_id).to(sequences)
        after = torch.isin(sequences, ends).long()
        own = after.cumsum(dim=1) - after == 0  # up to the end of the answer
        likely = taken.float().where(own, 0).sum(dim=1) / own.sum(dim=1)
        if self.config.reading_min_score is None:
            likely = refusals_last(likely, self._decode(sequences, len(sequences)))
        return list(zip(sequences, likely, answer_odds(logits[0], refusal), strict=True))

    def embed_answers(
        self, questions: Sequence[str], memories: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (B, L, H) and mask (B, L) of answering prompts over memories that were chosen already.

        For each of B questions its memories (m, H), in the order in which they are read.
        """
        return self._filled(self._processor().encode_prompts, questions, memories)

    def _filled(
        self, encode: Callable, prompts: Sequence, memories: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Embeddings and mask of prompts whose slots take the memories, one after the other."""
        slots = [[len(memory) for memory in row] for row in memories]
        batch = encode(prompts, slots).to(self.device)
        none = torch.empty(0, self.config.get_text_config().hidden_size)
        rows = torch.cat([memory for row in memories for memory in row] or [none])
        return self.fill_slots(batch["input_ids"], rows.to(self.device)), batch["attention_mask"]

    def _pools(self, memory: Memory, count: int) -> list[Any]:
        """The memory each question searches: one for all, or one compressed pool a question."""
        if is_corpus_memory(memory) or is_path(memory):
            return [self._opened(memory)] * count
        if is_document(memory) or all(is_document(item) for item in memory):
            return [self.build_memory(memory, show_progress=False)] * count
        if len(memory) != count:
            raise ValueError(
                f"`memory` has {len(memory)} lists of texts for {count} questions: give one list a question."
            )
        return [self.build_memory(pool, show_progress=False) for pool in memory]

    def _find(
        self, questions: list[str], memory: Memory, k: int | None, options: dict, reading: str = "together"
    ) -> tuple[RetrievalOutput, list[list[Tensor]]]:
        """What was found, and for each question its K memories (m, H) in the order in which they are read."""
        pools = self._pools(memory, len(questions))
        found = self._search(questions, pools, k, options)
        if not all(found.indices):
            raise ValueError(f"`where` {options['where']!r} lets no passage through: nothing to answer from.")
        orders = {"each": lambda _, row: row, "score": reading_order, "document": lambda _, row: sorted(row)}
        order = orders["each" if reading == "each" else self.config.memory_order]
        pairs = zip(pools, found.indices, strict=True)
        return found, [pool.gather(order(pool, row)) for pool, row in pairs]

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

        A text for each of several documents; `kwargs` are ordinary generation arguments.
        """
        single = is_document(documents)
        passages = self.split_passages(documents)
        values, offsets, _ = self.compress_texts(passages.texts)
        memories = values.split(offsets.diff().tolist())
        parents: dict[str, list[Tensor]] = defaultdict(list)
        for parent, memory in zip(passages.parents, memories, strict=True):
            parents[parent].append(memory)
        answers = self._paraphrased(list(parents.values()), **kwargs)
        return answers[0] if single else answers

    @torch.no_grad()
    def paraphrase_memory(self, memory: Any, index: int, streamer: Any = None, **kwargs: Any) -> str:
        """Says again in words what the memory of the passage at `index` holds; its text is not read.

        Raises a ValueError if another model made the memory; an IndexError if there is no passage of that
        index.
        """
        memory = self._opened(memory)
        return self._paraphrased([memory.gather([index])], streamer=streamer, **kwargs)[0]

    def _paraphrased(self, memories: list[list[Tensor]], **kwargs: Any) -> list[str]:
        prompts = [paraphrase_prompt(self.config.prompt_style)] * len(memories)
        with self.lock:
            filled = self._filled(self._processor().encode_messages, prompts, memories)
            generation = self._generate_from(*filled, **kwargs)
        return self._decode(generation.sequences, len(prompts))

    def _opened(self, memory: Any) -> Any:
        """A corpus memory that this model made, opened if a folder is given.

        Raises a TypeError if it is neither; a ValueError if another model made it, or a path holds no memory.
        """
        if is_path(memory):
            folder = os.path.expanduser(memory)
            if not os.path.isdir(folder):
                check_no_path(memory, "memory")
            return self.load_memory(folder)
        if not is_corpus_memory(memory):
            raise TypeError(
                f"`memory` must be a corpus memory of `build_memory`, got {type(memory).__name__}."
            )
        if memory.fingerprint is not None and memory.fingerprint != self.memory_fingerprint():
            raise ValueError(
                "`memory` was made by another compressor or base than this model's: "
                "build it again with this model, or load the model that made it."
            )
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


def _options(where: Any, exact: bool | None, hybrid: float | bool | None) -> dict[str, Any]:
    """What a search is told beyond its query and K; nothing that was not asked for."""
    asked = {"where": where, "exact": exact, "hybrid": None if hybrid is False else hybrid}
    return {name: value for name, value in asked.items() if value is not None}
