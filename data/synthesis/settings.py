"""The settings of a synthesis, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from .outcomes import KINDS


@dataclass(frozen=True)
class SynthesisSettings:
    """What is made of every document.

    Attributes:
        kinds: the signals to make, out of "simple", "complex" and "paraphrase".
        max_questions: the most questions asked for at once.
        max_rounds: the most rounds of supplementary questions (the paper: 10); a kind of questions with
            facts still uncovered after them is rejected.
        max_attempts: attempts at the paraphrase.
        temperature: sampling temperature of questions and paraphrases; answers and judgements are greedy.
        max_tokens: the most new tokens of one reply; a cut-off reply gets twice as many in its repair.
        seed: seed of the whole synthesis; every call derives its own from it, the document and the step.

    Raises:
        ValueError: if a value is out of range.
    """

    kinds: tuple[str, ...] = KINDS
    max_questions: int = 12
    max_rounds: int = 10
    max_attempts: int = 3
    temperature: float = 0.7
    max_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ValueError(f"`kinds` must name at least one of {', '.join(KINDS)}, got {list(self.kinds)}.")
        for name in ("max_questions", "max_attempts", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.max_rounds < 0:
            raise ValueError(f"`max_rounds` must not be negative, got {self.max_rounds}.")
        if self.temperature < 0:
            raise ValueError(f"`temperature` must not be negative, got {self.temperature}.")
