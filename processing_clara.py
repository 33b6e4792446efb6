"""ClaraProcessor: text to token ids and back; documents, questions, prompts with memory slots, labels."""

from collections.abc import Sequence

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase, ProcessorMixin

from .documents_clara import check_texts
from .prompts_clara import SLOTS, STYLES, TEXT, Messages, answer_prompt, render_chat
from .splitting_clara import split_texts
from .tokens_clara import (
    following_ids,
    framed_ids,
    has_specials,
    opening_ids,
    plain_ids,
    template_ids,
)

SLOT_ID = -1
IGNORE_INDEX = -100


class ClaraProcessor(ProcessorMixin):
    """Turns documents, questions and prompts into token ids for [`ClaraForRetrievalGeneration`].

    Everything is padded on the left. In prompts, `SLOT_ID` (no token's id) marks the memory slots; special
    tokens written in documents and questions are read as ordinary text.

    Args:
        tokenizer: The base model's tokenizer.
        num_memory_tokens: M, the slots of one document.
        doc_max_length: Longest passage in tokens, with the beginning-of-text token if the base uses one.
        question_max_length: Longest question in tokens.
        prompt_max_length: Longest prompt in tokens, slots and answer included.
        text_prefix: What stands before documents and questions; this and the following as in `ClaraConfig`.
        text_suffix: What stands after them.
        encoder_length: Tokens that each is padded to; also their limit.
        long_texts: "split" or "cut", what happens to those above the limit.
        prompt_style: "clara" or "released".
        memory_suffix: What stands after each document's memory in a prompt.
        memory_marks: A document's place in a prompt whose memories are written without a gap.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        num_memory_tokens: int = 16,
        doc_max_length: int = 256,
        question_max_length: int = 256,
        prompt_max_length: int = 2048,
        text_prefix: str | None = None,
        text_suffix: str = "",
        encoder_length: int | None = None,
        long_texts: str = "split",
        prompt_style: str = "clara",
        memory_suffix: str = "",
        memory_marks: str = "",
    ) -> None:
        self.num_memory_tokens = num_memory_tokens
        self.doc_max_length = doc_max_length
        self.question_max_length = question_max_length
        self.prompt_max_length = prompt_max_length
        self.text_prefix = text_prefix
        self.text_suffix = text_suffix
        self.encoder_length = encoder_length
        self.long_texts = long_texts
        self.prompt_style = prompt_style
        self.memory_suffix = memory_suffix
        self.memory_marks = memory_marks
        super().__init__(tokenizer)

    # Documents and questions

    def encode_documents(self, texts: Sequence[str], truncation: bool = False) -> BatchEncoding:
        """Encodes passages for `model.compress`.

        Args:
            texts: N passages of at most `doc_max_length` tokens each.
            truncation: Cut longer ones instead of raising.

        Returns:
            `input_ids` and `attention_mask`, (N, L), padded on the left to the longest.

        Raises:
            ValueError: If a text is empty or too long; the message names its index.
        """
        texts = check_texts(self._listed(texts), "texts")
        way_out = "split it with `split_documents`"
        return self._encode(texts, "texts", self.doc_max_length, truncation, way_out)

    def encode_questions(self, questions: Sequence[str]) -> BatchEncoding:
        """Encodes questions for `model.reason`.

        Returns:
            `input_ids` and `attention_mask`, (B, L), padded on the left to the longest.

        Raises:
            ValueError: If a question is empty or longer than `question_max_length` tokens.
        """
        questions = check_texts(self._listed(questions), "questions")
        return self._encode(questions, "questions", self.question_max_length, False, "shorten it")

    def _encode(
        self, texts: list[str], name: str, limit: int, truncation: bool, way_out: str
    ) -> BatchEncoding:
        ids = framed_ids(self.tokenizer, texts, self.text_prefix, self.text_suffix)
        limit = self.encoder_length or limit
        if truncation or self.long_texts == "cut":
            ids = [row[:limit] for row in ids]
        self._check_lengths(ids, limit, name, way_out)
        return self._pad(ids, self.encoder_length)

    def split_documents(self, texts: Sequence[str], headers: Sequence[str] | None = None) -> list[list[str]]:
        """Cuts each text into passages of at most `doc_max_length` tokens; see `split_texts`.

        Args:
            texts: N texts.
            headers: A line for each text that stands before each of its passages.

        Returns:
            For each text its passages. With `long_texts="cut"` each text is its only passage.
        """
        if self.long_texts == "cut":
            headers = [""] * len(texts) if headers is None else headers
            return [
                [f"{header}\n{text}" if header else text] for header, text in zip(headers, texts, strict=True)
            ]
        limit = (self.encoder_length or self.doc_max_length) - self._frame_length()
        return split_texts(self.tokenizer, texts, limit, headers)

    # Prompts

    def encode_prompts(
        self,
        questions: Sequence[str],
        k: int | Sequence[int],
        answers: Sequence[str] | None = None,
        num_memory_tokens: int | None = None,
    ) -> BatchEncoding:
        """Encodes answering prompts with slots for the memories of k documents.

        Args:
            questions: B questions.
            k: Documents a question, one number or one for each question.
            answers: B answers; None leaves the prompt open for generation. The prompt's ids are the same.
            num_memory_tokens: Slots a document, M by default (fewer: nested rates).

        Returns:
            `input_ids`, `attention_mask`, and with answers `labels` (-100 outside the answer), each (B, L).

        Raises:
            ValueError: If a text is empty, a prompt with its answer is too long, or a number is out of range.
        """
        questions = check_texts(self._listed(questions), "questions")
        prompts = [answer_prompt(self.prompt_style) for _ in questions]
        return self.encode_messages(prompts, k, questions, answers, num_memory_tokens)

    def encode_messages(
        self,
        prompts: Sequence[Messages],
        k: int | Sequence[int],
        texts: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        num_memory_tokens: int | None = None,
    ) -> BatchEncoding:
        """Encodes any prompts of prompts_clara; see `encode_prompts`. `texts` fill their `TEXT` marks."""
        texts = [""] * len(prompts) if texts is None else texts
        counts = [k] * len(prompts) if isinstance(k, int) else list(k)
        size = self.num_memory_tokens if num_memory_tokens is None else num_memory_tokens
        self._check_prompts(len(prompts), counts, targets, size)
        ids = [
            self._prompt_ids(messages, count, text, size)
            for messages, count, text in zip(prompts, counts, texts, strict=True)
        ]
        if targets is None:
            self._check_lengths(
                ids, self.prompt_max_length, "prompts", "shorten the question or choose fewer documents"
            )
            return self._pad(ids)
        ends = [
            [*row, self.tokenizer.eos_token_id]
            for row in plain_ids(self.tokenizer, check_texts(targets, "answers"))
        ]
        labels = [[IGNORE_INDEX] * len(row) + end for row, end in zip(ids, ends, strict=True)]
        ids = [row + end for row, end in zip(ids, ends, strict=True)]
        self._check_lengths(
            ids, self.prompt_max_length, "prompts", "shorten the answer or choose fewer documents"
        )
        batch = self._pad(ids)
        batch["labels"] = self._left(labels, IGNORE_INDEX)
        return batch

    def _check_prompts(
        self, prompts: int, counts: list[int], answers: Sequence[str] | None, size: int
    ) -> None:
        for name, values in (("k", counts), ("answers", answers)):
            if values is not None and len(values) != prompts:
                raise ValueError(f"`{name}` has {len(values)} entries for {prompts} prompts.")
        if min(counts) < 0:
            raise ValueError(f"`k` must be at least 0 (a prompt without documents), got {min(counts)}.")
        if not 1 <= size <= self.num_memory_tokens:
            raise ValueError(
                f"`num_memory_tokens` must be between 1 and {self.num_memory_tokens}, got {size}."
            )

    def _prompt_ids(self, messages: Messages, k: int, text: str, size: int) -> list[int]:
        ids: list[int] = []
        before = ""
        for part in self._render(messages, text.strip() if STYLES[self.prompt_style].careful else text):
            ids.extend(self._slots(k, size) if part == SLOTS else self._part_ids(part, before))
            before = self.memory_suffix if part == SLOTS else ""
        return ids

    def _part_ids(self, part: str | tuple[str], before: str = "") -> list[int]:
        if isinstance(part, tuple):
            return plain_ids(self.tokenizer, part)[0]
        return following_ids(self.tokenizer, part, before)

    def _slots(self, k: int, size: int) -> list[int]:
        """K times M slots: what stands after each and between two, or what K packed memories leave over."""
        slots = [SLOT_ID] * size
        if self.memory_marks:
            return slots * k + (self._part_ids(self.memory_marks) * k)[size * k :]
        slots += self._part_ids(self.memory_suffix)
        between = self._part_ids(STYLES[self.prompt_style].between)
        return (slots + between) * (k - 1) + slots if k else []

    def _render(self, messages: Messages, text: str) -> list[str | tuple[str]]:
        """The rendered chat cut at the slots; a text that holds special tokens becomes a part of its own."""
        rendered = render_chat(self.tokenizer, messages, self.prompt_style)
        before, _, after = rendered.partition(SLOTS)
        pieces: list[str | tuple[str]] = [before, SLOTS, after]
        if not has_specials(self.tokenizer, text):
            return [piece.replace(TEXT, text) for piece in pieces]
        parts: list[str | tuple[str]] = []
        for piece in pieces:
            head, mark, tail = piece.partition(TEXT)
            parts.extend([head, (text,), tail] if mark else [piece])
        return [part for part in parts if part]

    # Helpers

    def _frame_length(self) -> int:
        prefix, suffix = self.text_prefix, self.text_suffix
        opening = opening_ids(self.tokenizer) if prefix is None else template_ids(self.tokenizer, prefix)
        return len(opening) + len(template_ids(self.tokenizer, suffix))

    @staticmethod
    def _listed(texts: Sequence[str]) -> list[str]:
        return [texts] if isinstance(texts, str) else list(texts)

    @staticmethod
    def _check_lengths(ids: list[list[int]], limit: int, name: str, way_out: str) -> None:
        for index, row in enumerate(ids):
            if len(row) > limit:
                raise ValueError(f"`{name}[{index}]` has {len(row)} tokens, the limit is {limit}: {way_out}.")

    def _pad(self, ids: list[list[int]], width: int | None = None) -> BatchEncoding:
        pad = self.tokenizer.pad_token_id
        rows = self._left(ids, self.tokenizer.eos_token_id if pad is None else pad, width)
        mask = self._left([[1] * len(row) for row in ids], 0, width)
        return BatchEncoding({"input_ids": rows, "attention_mask": mask})

    @staticmethod
    def _left(rows: list[list[int]], value: int, width: int | None = None) -> torch.Tensor:
        width = width or max(len(row) for row in rows)
        return torch.tensor([[value] * (width - len(row)) + row for row in rows])


ClaraProcessor.register_for_auto_class()
