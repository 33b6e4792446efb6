"""Rows to batches of tensors, one collator a stage; random choices depend on seed, epoch and row alone."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BatchEncoding

from ..processing_clara import ClaraProcessor
from ..prompts_clara import (
    Messages,
    answer_prompt,
    paraphrase_prompt,
    plain_ids,
    plain_offsets,
    prompt_ids,
    questions_and_answers_prompt,
    questions_and_answers_target,
    reconstruction_prompt,
)
from .records import PretrainingRecord, QuestionRecord

SIGNALS = ("questions_and_answers", "answer", "paraphrase", "reconstruction")


class Item(NamedTuple):
    """A row with its place and epoch, which seed its random choices."""

    index: int
    epoch: int
    record: Any


class RecordDataset(Dataset):
    """Records for a Trainer: `Item`s that know their epoch, and their lengths for bucketing.

    Row i of epoch e has the key e * len(dataset) + i, so that the dataset holds no state that the workers of
    a data loader would have to share.

    Args:
        records: Rows of one kind.

    Raises:
        ValueError: If there is no row.
    """

    def __init__(self, records: Sequence[PretrainingRecord | QuestionRecord]) -> None:
        if not len(records):
            raise ValueError("`records` is empty: there is nothing to train or evaluate on.")
        self.records = list(records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int) -> Item:
        epoch, index = divmod(key, len(self.records))
        return Item(index, epoch, self.records[index])

    def lengths(self) -> list[int]:
        """Characters of each row's longest document, which decide the padding of a batch."""
        return [
            len(r.document) if hasattr(r, "document") else max(len(d) for d in r.documents)
            for r in self.records
        ]


class Target(NamedTuple):
    """What is learnt from a document with one prompt: the user's texts in it, each with its answer."""

    prompt: Messages
    texts: list[str]
    answers: list[str]


def encode_packed(
    processor: ClaraProcessor, targets: Sequence[Target], slots: Sequence[Sequence[int]]
) -> BatchEncoding:
    """Encodes several questions a prompt, which share its head with the memories.

    What stands after the slots is repeated for each question with its answer, which attends to the shared
    head and itself alone (`segments`), so that the loss is that of one prompt a question.

    Returns:
        `input_ids`, `attention_mask`, `labels` and `segments` (-1 at padding, 0 in the shared head or where a
        prompt has one text, then 1, 2, …), each (B, L).
    """
    processor.check_prompts(len(targets), slots, targets)
    rows = []
    for (messages, texts, answers), counts in zip(targets, slots, strict=True):
        row: list[tuple] = []
        pairs = zip(texts, processor.answer_ids(answers), strict=True)
        for number, (text, end) in enumerate(pairs, start=1):
            head, tail = prompt_ids(processor, messages, counts, text)
            segment = number if len(texts) > 1 else 0
            shared = [] if row else [(head, False, 0)]
            row += [*shared, (tail, False, segment), (end, True, segment)]
        rows.append(row)
    return processor.encode_parts(rows)


@dataclass
class PretrainingCollator:
    """Documents with their signals: each document is compressed once for all of them (design, section 5.6).

    Attributes:
        processor: The model's processor.
        signals: For each of `SIGNALS` the chance that a document that has it gives it in an epoch. `answer`
            is drawn for each question apart.
        max_answers: At most this many single questions of a document in an epoch.
        target_max_length: Targets are cut to this many tokens at a word's end; a question and answer never
            are.
        match_questions: Give also at most so many questions of each document by which it can be found, for
            contrastive training; and the texts, for a teacher of retrieval.
        pack_questions: Put a document's single questions into one prompt (`encode_packed`).
        rate_factors: Rates to train at once: each batch draws one of these multiples of the model's rate.
        seed: Seed of the draws.
    """

    processor: ClaraProcessor
    signals: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(SIGNALS, 1.0))
    max_answers: int = 4
    target_max_length: int = 192
    match_questions: int = 0
    pack_questions: bool = False
    rate_factors: Sequence[int] = (1,)
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.signals) - set(SIGNALS))
        if unknown or not self.signals:
            raise ValueError(f"`signals` must map some of {SIGNALS} to chances, got {dict(self.signals)}.")

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        """Makes a batch of D documents and their T targets.

        Returns:
            `document_input_ids` and `document_attention_mask` (D, Ld), `document_indices` (T, 1), and
            `input_ids`, `attention_mask`, `labels` and, packed, `segments` (T, L); `rate_factor`;
            `match_input_ids` and `match_attention_mask` (Q, Lm) with `match_indices` (Q,), the documents of
            the questions to match, and the texts `match_texts` (Q) and `document_texts` (D).
        """
        documents = self.processor.encode_documents([i.record.document for i in items], truncation=True)
        targets: list[Target] = []
        indices = []
        for row, item in enumerate(items):
            found = self.targets(item)
            targets.extend(found)
            indices.extend([row] * len(found))
        factor = draw_rate(self.rate_factors, items, self.seed)
        counts = self.processor.memory_counts(documents["attention_mask"], factor)
        batch = {
            **documents_batch(documents),
            "document_indices": torch.tensor(indices).unsqueeze(-1),
            "rate_factor": factor,
            **self._prompts(targets, [[counts[row]] for row in indices]),
        }
        if self.match_questions:
            batch |= self._matches(items)
        return batch

    def _prompts(self, targets: Sequence[Target], slots: list[list[int]]) -> dict[str, Tensor]:
        """Prompts and labels of the targets, packed or one a row."""
        if self.pack_questions:
            return encode_packed(self.processor, targets, slots)
        prompts = [target.prompt for target in targets]
        texts, answers = [target.texts[0] for target in targets], [target.answers[0] for target in targets]
        return self.processor.encode_messages(prompts, slots, texts, answers)

    def _matches(self, items: Sequence[Item]) -> dict[str, Any]:
        """Questions by which their documents can be found; nothing if there are none."""
        questions: list[str] = []
        rows: list[int] = []
        for row, item in enumerate(items):
            findable = item.record.findable_questions
            draw = random.Random(f"{self.seed}-match-{item.epoch}-{item.index}")
            drawn = draw.sample(findable, min(self.match_questions, len(findable)))
            questions += drawn
            rows += [row] * len(drawn)
        if not rows:
            return {}
        encoded = self.processor.encode_questions(questions)
        found = {f"match_{name}": tensor for name, tensor in encoded.items()}
        texts = {"match_texts": questions, "document_texts": [item.record.document for item in items]}
        return {**found, **texts, "match_indices": torch.tensor(rows)}

    def targets(self, item: Item) -> list[Target]:
        """The targets of one document in one epoch; never none: at least it is reconstructed."""
        record, draw = item.record, random.Random(f"{self.seed}-{item.epoch}-{item.index}")
        found, style = [], self.processor.prompt_style
        pairs = record.pairs
        if pairs and self._drawn("questions_and_answers", draw):
            kept = self._fitting(pairs)
            target = questions_and_answers_target([q for q, _ in kept], [a for _, a in kept])
            found.append(Target(questions_and_answers_prompt(), [""], [target]))
        single = [pair for pair in pairs if self._drawn("answer", draw)]
        drawn = draw.sample(single, min(self.max_answers, len(single)))
        groups = [drawn] if self.pack_questions and drawn else [[pair] for pair in drawn]
        for group in groups:
            found.append(Target(answer_prompt(style), [q for q, _ in group], [a for _, a in group]))
        if record.paraphrases and self._drawn("paraphrase", draw):
            found.append(Target(paraphrase_prompt(style), [""], [self._cut(draw.choice(record.paraphrases))]))
        if not found or self._drawn("reconstruction", draw):
            found.append(Target(reconstruction_prompt(), [""], [self._cut(record.document)]))
        return found

    def _drawn(self, signal: str, draw: random.Random) -> bool:
        return draw.random() < self.signals.get(signal, 0.0)

    def _fitting(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The first pairs that together stay within `target_max_length`; at least one."""
        kept, used = [], 0
        for question, answer in pairs:
            text = f"Question: {question}\nAnswer: {answer}\n"
            used += len(plain_ids(self.processor.tokenizer, [text])[0])
            if kept and used > self.target_max_length:
                break
            kept.append((question, answer))
        return kept

    def _cut(self, text: str) -> str:
        offsets = plain_offsets(self.processor.tokenizer, [text])[0]
        if len(offsets) <= self.target_max_length:
            return text
        cut = text[: offsets[self.target_max_length - 1][1]]
        return cut.rsplit(" ", 1)[0].strip() or cut


@dataclass
class InstructionCollator:
    """Questions with several documents to compress, and their answers (paper section 3, instruction tuning).

    Attributes:
        processor: The model's processor.
        documents_per_question: Documents shown: the positives, then others in the row's order; shuffled.
        rate_factors: Rates to train at once, as in `PretrainingCollator`.
        seed: Seed of the order.
    """

    processor: ClaraProcessor
    documents_per_question: int = 5
    rate_factors: Sequence[int] = (1,)
    seed: int = 0

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        """Makes a batch of documents, each once, and the prompts that show them.

        Returns:
            `document_input_ids` and its mask (D, Ld), `document_indices` (B, K), `document_counts` (D,), and
            `input_ids`, `attention_mask`, `labels` (B, L).
        """
        draws = [random.Random(f"{self.seed}-{item.epoch}-{item.index}") for item in items]
        chosen = [self.documents(item.record, draw) for item, draw in zip(items, draws, strict=True)]
        counts = {len(texts) for texts in chosen}
        if len(counts) > 1:
            raise ValueError(
                f"A batch mixes questions with {sorted(counts)} documents: set `documents_per_question` "
                f"to at most {min(counts)}, or leave out the rows with fewer."
            )
        unique = list(dict.fromkeys(text for texts in chosen for text in texts))
        place = {text: row for row, text in enumerate(unique)}
        factor = draw_rate(self.rate_factors, items, self.seed)
        documents = self.processor.encode_documents(unique, truncation=True)
        sizes = self.processor.memory_counts(documents["attention_mask"], factor)
        prompts = self.processor.encode_prompts(
            [item.record.question for item in items],
            [[sizes[place[text]] for text in texts] for texts in chosen],
            [item.record.target for item in items],
        )
        indices = torch.tensor([[place[text] for text in texts] for texts in chosen])
        counts = torch.bincount(indices.flatten(), minlength=len(unique))
        found = {**documents_batch(documents), "document_indices": indices, "document_counts": counts}
        return {**found, "rate_factor": factor, **prompts}

    def documents(self, record: QuestionRecord, draw: random.Random) -> list[str]:
        """The documents shown with a question, none twice, in the order that `draw` gives."""
        gold = [record.documents[i] for i in record.positives]
        texts = list(dict.fromkeys([*gold, *record.documents]))[: self.documents_per_question]
        draw.shuffle(texts)
        return texts


def documents_batch(encoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Encoded documents under the names of the model's forward pass."""
    return {f"document_{name}": tensor for name, tensor in encoded.items()}


def draw_rate(factors: Sequence[int], items: Sequence[Item], seed: int) -> int:
    """The multiple of the model's compression rate at which this batch is read."""
    return random.Random(f"{seed}-{items[0].epoch}-{items[0].index}").choice(list(factors))
