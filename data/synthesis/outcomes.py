"""What synthesis found out about one document: its signals, each accepted or rejected with the reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

KINDS = ("simple", "complex", "paraphrase")


@dataclass(frozen=True)
class Pair:
    """A question and its answer.

    Attributes:
        question: the question.
        answer: the answer from the document.
        round: the coverage round that brought it, 0 for the first questions.
    """

    question: str
    answer: str
    round: int = 0


@dataclass
class Signal:
    """One kind of signal of one document.

    Attributes:
        kind: "simple", "complex" or "paraphrase".
        accepted: whether it passed its last check.
        reason: why it did not; empty if it did.
        pairs: accepted question-answer pairs (simple and complex).
        text: the paraphrase.
        rounds: coverage rounds, or attempts at the paraphrase.
        rejected: counts of pairs that were dropped on the way, by reason.
    """

    kind: str
    accepted: bool = False
    reason: str = ""
    pairs: list[Pair] = field(default_factory=list)
    text: str = ""
    rounds: int = 0
    rejected: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str) -> None:
        """Counts one dropped pair."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1


@dataclass
class DocumentOutcome:
    """One document with everything that was made of it.

    Attributes:
        id: the document's id.
        document: its text as the compressor reads it.
        signals: one for each kind that was asked for.
        reason: why the document was not sent to the teacher at all; empty if it was.
    """

    id: str
    document: str
    signals: list[Signal] = field(default_factory=list)
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """Whether at least one signal was accepted."""
        return any(signal.accepted for signal in self.signals)

    def to_row(self) -> dict[str, Any]:
        """Returns the outcome as a JSON object."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> DocumentOutcome:
        """Reads what `to_row` wrote."""
        signals = [
            Signal(**{**signal, "pairs": [Pair(**pair) for pair in signal["pairs"]]})
            for signal in row["signals"]
        ]
        return cls(row["id"], row["document"], signals, row["reason"])
