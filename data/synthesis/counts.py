"""What a synthesis yielded, counted row by row in bounded memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .gates import paraphrase_measures
from .outcomes import KINDS, DocumentOutcome, Signal
from .texts import words

SAMPLES = 12


@dataclass
class KindCounts:
    """Counts of one kind of signal.

    Attributes:
        documents: documents for which it was asked.
        generated: documents for which the teacher's own checks accepted it.
        accepted: documents that the gates left it, too.
        items: accepted pairs or paraphrases.
        documents_rejected: documents without it, by reason.
        pairs_rejected: dropped pairs, by reason.
        rounds: documents by number of coverage rounds (or attempts at the paraphrase).
        per_document: documents by number of accepted pairs.
        question_words, answer_words: pairs by length; for paraphrases `answer_words` is the paraphrase's
            length.
        copied: paraphrases by copied share, in tenths.
    """

    documents: int = 0
    generated: int = 0
    accepted: int = 0
    items: int = 0
    documents_rejected: Counter = field(default_factory=Counter)
    pairs_rejected: Counter = field(default_factory=Counter)
    rounds: Counter = field(default_factory=Counter)
    per_document: Counter = field(default_factory=Counter)
    question_words: Counter = field(default_factory=Counter)
    answer_words: Counter = field(default_factory=Counter)
    copied: Counter = field(default_factory=Counter)

    def add(self, document: str, before: Signal, after: Signal) -> None:
        """Counts one signal as the teacher made it and as the gates left it."""
        self.documents += 1
        self.generated += before.accepted
        self.accepted += after.accepted
        self.rounds[before.rounds] += 1
        self.pairs_rejected.update(after.rejected)
        if after.reason:
            self.documents_rejected[after.reason] += 1
        if before.text:
            self.copied[int(10 * paraphrase_measures(document, before.text)["copied"])] += 1
        if after.text:
            self.items += 1
            self.answer_words[len(words(after.text))] += 1
        if after.pairs:
            self.per_document[len(after.pairs)] += 1
        for pair in after.pairs:
            self.items += 1
            self.question_words[len(words(pair.question))] += 1
            self.answer_words[len(words(pair.answer))] += 1


@dataclass
class Counts:
    """Counts of a whole synthesis.

    Attributes:
        documents: passages seen.
        accepted: passages with at least one accepted signal.
        not_sent: passages that never went to the teacher, by reason.
        document_words: passages by length.
        kinds: counts of each kind of signal.
        samples: the first accepted outcomes, to read.
        refused: the first refused ones, to read.
    """

    documents: int = 0
    accepted: int = 0
    not_sent: Counter = field(default_factory=Counter)
    document_words: Counter = field(default_factory=Counter)
    kinds: dict[str, KindCounts] = field(default_factory=lambda: {kind: KindCounts() for kind in KINDS})
    samples: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)

    def add(self, before: DocumentOutcome, after: DocumentOutcome) -> None:
        """Counts one document as the teacher made it and as the gates left it."""
        self.documents += 1
        self.accepted += after.accepted
        self.document_words[len(words(after.document))] += 1
        if after.reason:
            self.not_sent[after.reason] += 1
        for made, left in zip(before.signals, after.signals, strict=True):
            self.kinds[made.kind].add(after.document, made, left)
        kept = self.samples if after.accepted else self.refused
        if len(kept) < SAMPLES:
            kept.append((after if after.accepted else before).to_row() | {"reasons": _reasons(after)})


def mean(counter: Counter) -> float:
    """Returns the mean of the numbers that a counter holds; 0 if it is empty."""
    total = sum(counter.values())
    return sum(value * count for value, count in counter.items()) / total if total else 0.0


def _reasons(outcome: DocumentOutcome) -> dict[str, str]:
    return {signal.kind: signal.reason for signal in outcome.signals if signal.reason}
