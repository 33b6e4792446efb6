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
        num_memory_tokens: M, the most slots of one document.
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
        pooling: "mean" (a passage of L tokens has ceil(L / rate) vectors) or "memory_tokens" (always M).
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
        pooling: str = "memory_tokens",
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
        self.pooling = pooling
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
        return self.pad(ids, self.encoder_length)

    def memory_counts(self, attention_mask: torch.Tensor, factor: int = 1) -> list[int]:
        """Vectors of the memories of encoded documents, without compressing them.

        Args:
            attention_mask: (N, L) of `encode_documents`.
            factor: Neighbouring vectors that are read as one (a larger rate).

        Returns:
            N counts, those of `model.compress`.
        """
        if self.pooling == "memory_tokens":
            return [-(-self.num_memory_tokens // factor)] * len(attention_mask)
        rate = self.doc_max_length // self.num_memory_tokens
        vectors = (attention_mask.sum(dim=-1) + rate - 1) // rate
        return ((vectors + factor - 1) // factor).tolist()

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
        slots: Sequence[Sequence[int]],
        answers: Sequence[str] | None = None,
    ) -> BatchEncoding:
        """Encodes answering prompts with slots for the memories of documents.

        Args:
            questions: B questions.
            slots: For each question the vectors of each of its documents' memories: [[16, 9]] is one question
                with two documents, [[]] one with none.
            answers: B answers; None leaves the prompt open for generation. The prompt's ids are the same.

        Returns:
            `input_ids`, `attention_mask`, and with answers `labels` (-100 outside the answer), each (B, L).

        Raises:
            ValueError: If a text is empty, a prompt with its answer is too long, or a number is out of range.
        """
        questions = check_texts(self._listed(questions), "questions")
        prompts = [answer_prompt(self.prompt_style) for _ in questions]
        return self.encode_messages(prompts, slots, questions, answers)

    def encode_messages(
        self,
        prompts: Sequence[Messages],
        slots: Sequence[Sequence[int]],
        texts: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
    ) -> BatchEncoding:
        """Encodes any prompts of prompts_clara; see `encode_prompts`. `texts` fill their `TEXT` marks."""
        texts = [""] * len(prompts) if texts is None else texts
        self._check_prompts(len(prompts), slots, targets)
        ids = [
            [token for part in self._prompt_parts(messages, row, text) for token in part]
            for messages, row, text in zip(prompts, slots, texts, strict=True)
        ]
        if targets is None:
            self._check_lengths(
                ids, self.prompt_max_length, "prompts", "shorten the question or choose fewer documents"
            )
            return self.pad(ids)
        ends = self._ends(targets)
        labels = [[IGNORE_INDEX] * len(row) + end for row, end in zip(ids, ends, strict=True)]
        return self._labelled([row + end for row, end in zip(ids, ends, strict=True)], labels)

    def encode_packed(
        self,
        prompts: Sequence[Messages],
        slots: Sequence[Sequence[int]],
        texts: Sequence[Sequence[str]],
        targets: Sequence[Sequence[str]],
    ) -> BatchEncoding:
        """Encodes several questions a prompt, which share its head with the memories (training).

        What stands after the slots is repeated for each question with its answer. With `segments` the model
        lets each of them attend to the shared head and itself alone, at the positions that it has by itself,
        so that the loss is that of one prompt a question.

        Args:
            prompts: B prompts.
            slots: As in `encode_prompts`.
            texts: For each prompt the texts that fill its `TEXT` mark, one or several.
            targets: As many answers.

        Returns:
            `input_ids`, `attention_mask`, `labels` and `segments` (-1 at padding, 0 in the shared head or
            where a prompt has one text, then 1, 2, …), each (B, L).
        """
        self._check_prompts(len(prompts), slots, targets)
        rows, labels, segments = [], [], []
        for messages, counts, questions, answers in zip(prompts, slots, texts, targets, strict=True):
            first: list[int] = []
            row, label, segment = [], [], []
            for number, (question, end) in enumerate(
                zip(questions, self._ends(answers), strict=True), start=1
            ):
                head, tail = self._prompt_parts(messages, counts, question)
                if not first:
                    first, row = head, list(head)
                    label, segment = [IGNORE_INDEX] * len(head), [0] * len(head)
                row += tail + end
                label += [IGNORE_INDEX] * len(tail) + end
                segment += [number if len(questions) > 1 else 0] * (len(tail) + len(end))
            rows.append(row)
            labels.append(label)
            segments.append(segment)
        batch = self._labelled(rows, labels)
        batch["segments"] = self._left(segments, -1)
        return batch

    def _ends(self, targets: Sequence[str]) -> list[list[int]]:
        found = plain_ids(self.tokenizer, check_texts(targets, "answers"))
        return [[*row, self.tokenizer.eos_token_id] for row in found]

    def _labelled(self, ids: list[list[int]], labels: list[list[int]]) -> BatchEncoding:
        self._check_lengths(
            ids, self.prompt_max_length, "prompts", "shorten the answer or choose fewer documents"
        )
        batch = self.pad(ids)
        batch["labels"] = self._left(labels, IGNORE_INDEX)
        return batch

    def _check_prompts(self, prompts: int, slots: Sequence[Sequence[int]], answers: Sequence | None) -> None:
        for name, values in (("slots", slots), ("answers", answers)):
            if values is not None and len(values) != prompts:
                raise ValueError(f"`{name}` has {len(values)} entries for {prompts} prompts.")
        counts = [count for row in slots for count in row]
        if counts and not 1 <= min(counts) <= max(counts) <= self.num_memory_tokens:
            raise ValueError(
                f"`slots` must be between 1 and {self.num_memory_tokens} a document, got {min(counts)} to "
                f"{max(counts)}."
            )

    def _prompt_parts(
        self, messages: Messages, slots: Sequence[int], text: str
    ) -> tuple[list[int], list[int]]:
        """Ids up to the last memory slot, and those after it."""
        head: list[int] = []
        tail: list[int] = []
        before, found = "", False
        for part in self._render(messages, text.strip() if STYLES[self.prompt_style].careful else text):
            if part == SLOTS:
                head, found = head + self._slots(slots), True
            elif found:
                tail.extend(self._part_ids(part, before))
            else:
                head.extend(self._part_ids(part, before))
            before = self.memory_suffix if part == SLOTS else ""
        return head, tail

    def _part_ids(self, part: str | tuple[str], before: str = "") -> list[int]:
        if isinstance(part, tuple):
            return plain_ids(self.tokenizer, part)[0]
        return following_ids(self.tokenizer, part, before)

    def _slots(self, counts: Sequence[int]) -> list[int]:
        """The slots: what stands after each document and between two, or what packed memories leave over."""
        if self.memory_marks:
            total = sum(counts)
            return [SLOT_ID] * total + (self._part_ids(self.memory_marks) * len(counts))[total:]
        after, between = self._part_ids(self.memory_suffix), self._part_ids(STYLES[self.prompt_style].between)
        ids: list[int] = []
        for number, count in enumerate(counts):
            ids += (between if number else []) + [SLOT_ID] * count + after
        return ids

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

    def pad(self, ids: list[list[int]], width: int | None = None) -> BatchEncoding:
        """Ids as `input_ids` and `attention_mask` (B, L), padded on the left to the longest or to a width."""
        pad = self.tokenizer.pad_token_id
        rows = self._left(ids, self.tokenizer.eos_token_id if pad is None else pad, width)
        mask = self._left([[1] * len(row) for row in ids], 0, width)
        return BatchEncoding({"input_ids": rows, "attention_mask": mask})

    @staticmethod
    def _left(rows: list[list[int]], value: int, width: int | None = None) -> torch.Tensor:
        width = width or max(len(row) for row in rows)
        return torch.tensor([[value] * (width - len(row)) + row for row in rows])


ClaraProcessor.register_for_auto_class()
