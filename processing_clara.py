"""ClaraProcessor: text to token ids and back; documents, questions, prompts with memory slots, labels."""

from collections.abc import Sequence

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase, ProcessorMixin

from .documents_clara import check_texts
from .prompts_clara import SLOTS, TEXT, Messages, answer_prompt, render_chat
from .tokens_clara import opening_ids, plain_ids, plain_offsets, template_ids

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
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        num_memory_tokens: int = 16,
        doc_max_length: int = 256,
        question_max_length: int = 256,
        prompt_max_length: int = 2048,
    ) -> None:
        self.num_memory_tokens = num_memory_tokens
        self.doc_max_length = doc_max_length
        self.question_max_length = question_max_length
        self.prompt_max_length = prompt_max_length
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
        ids = self._opened_ids(check_texts(self._listed(texts), "texts"))
        if truncation:
            ids = [row[: self.doc_max_length] for row in ids]
        self._check_lengths(ids, self.doc_max_length, "texts", "split it with `split_documents`")
        return self._pad(ids)

    def encode_questions(self, questions: Sequence[str]) -> BatchEncoding:
        """Encodes questions for `model.reason`.

        Returns:
            `input_ids` and `attention_mask`, (B, L), padded on the left to the longest.

        Raises:
            ValueError: If a question is empty or longer than `question_max_length` tokens.
        """
        ids = self._opened_ids(check_texts(self._listed(questions), "questions"))
        self._check_lengths(ids, self.question_max_length, "questions", "shorten it")
        return self._pad(ids)

    def split_documents(self, texts: Sequence[str]) -> list[list[str]]:
        """Cuts each text into passages of at most `doc_max_length` tokens, at white space where it can.

        Returns:
            For each text its passages; joined they hold every character but the white space at the cuts.
        """
        limit = self.doc_max_length - len(opening_ids(self.tokenizer))
        encoded = plain_offsets(self.tokenizer, texts)
        return [
            [text] if len(offsets) <= limit else self._split(text, offsets, limit)
            for text, offsets in zip(texts, encoded, strict=True)
        ]

    def _split(self, text: str, offsets: list[tuple[int, int]], limit: int) -> list[str]:
        """Greedy windows over one long text's tokens; a window shrinks until it fits when encoded alone."""
        passages, start = [], 0
        ends = [end for _, end in offsets]
        token = 0
        while start < len(text):
            size = limit
            while True:
                last = min(token + size, len(ends))
                end = (
                    len(text) if last == len(ends) else self._cut(text, start, max(ends[last - 1], start + 1))
                )
                if size == 1 or len(plain_ids(self.tokenizer, [text[start:end]])[0]) <= limit:
                    break
                size = max(1, size * 9 // 10)
            if text[start:end].strip():
                passages.append(text[start:end].strip())
            start = end
            while token < len(ends) and ends[token] <= start:
                token += 1
        return passages

    @staticmethod
    def _cut(text: str, start: int, end: int) -> int:
        """The last white space of text[start:end] in its second half, else `end`."""
        for position in range(end, start + (end - start) // 2, -1):
            if text[position - 1].isspace():
                return position
        return end

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
            num_memory_tokens: Slots a document, M by default (fewer: a prefix of the memory).

        Returns:
            `input_ids`, `attention_mask`, and with answers `labels` (-100 outside the answer), each (B, L).

        Raises:
            ValueError: If a text is empty, a prompt with its answer is too long, or a number is out of range.
        """
        questions = check_texts(self._listed(questions), "questions")
        prompts = [answer_prompt() for _ in questions]
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
        for part in self._render(messages, text.strip()):
            ids.extend(self._slots(k, size) if part == SLOTS else self._part_ids(part))
        return ids

    def _part_ids(self, part: str | tuple[str]) -> list[int]:
        if isinstance(part, tuple):
            return plain_ids(self.tokenizer, part)[0]
        return template_ids(self.tokenizer, part)

    def _slots(self, k: int, size: int) -> list[int]:
        """K times M slots, a line break between documents."""
        line, slots = self._part_ids("\n"), [SLOT_ID] * size
        return (slots + line) * (k - 1) + slots if k else []

    def _render(self, messages: Messages, text: str) -> list[str | tuple[str]]:
        """The rendered chat cut at the slots; a text that holds special tokens becomes a part of its own."""
        rendered = render_chat(self.tokenizer, messages)
        before, _, after = rendered.partition(SLOTS)
        pieces: list[str | tuple[str]] = [before, SLOTS, after]
        if not self._has_specials(text):
            return [piece.replace(TEXT, text) for piece in pieces]
        parts: list[str | tuple[str]] = []
        for piece in pieces:
            head, mark, tail = piece.partition(TEXT)
            parts.extend([head, (text,), tail] if mark else [piece])
        return [part for part in parts if part]

    # Helpers

    def _has_specials(self, text: str) -> bool:
        return any(token.content in text for token in self.tokenizer.added_tokens_decoder.values())

    def _opened_ids(self, texts: list[str]) -> list[list[int]]:
        opening = opening_ids(self.tokenizer)
        return [opening + row for row in plain_ids(self.tokenizer, texts)]

    @staticmethod
    def _listed(texts: Sequence[str]) -> list[str]:
        return [texts] if isinstance(texts, str) else list(texts)

    @staticmethod
    def _check_lengths(ids: list[list[int]], limit: int, name: str, way_out: str) -> None:
        for index, row in enumerate(ids):
            if len(row) > limit:
                raise ValueError(f"`{name}[{index}]` has {len(row)} tokens, the limit is {limit}: {way_out}.")

    def _pad(self, ids: list[list[int]]) -> BatchEncoding:
        pad = self.tokenizer.pad_token_id
        rows = self._left(ids, self.tokenizer.eos_token_id if pad is None else pad)
        mask = self._left([[1] * len(row) for row in ids], 0)
        return BatchEncoding({"input_ids": rows, "attention_mask": mask})

    @staticmethod
    def _left(rows: list[list[int]], value: int) -> torch.Tensor:
        width = max(len(row) for row in rows)
        return torch.tensor([[value] * (width - len(row)) + row for row in rows])


ClaraProcessor.register_for_auto_class()
