"""Keeps evaluation questions out of training data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .texts import normalized, shingles

RUN = 3


class EvaluationQuestions:
    """Questions that must not be trained on, found by their runs of three words.

    Args:
        questions: the evaluation questions.
    """

    def __init__(self, questions: Iterable[str]) -> None:
        self._by_run: dict[tuple[str, ...], list[int]] = {}
        self._count = 0
        for number, question in enumerate(questions):
            self._count += 1
            for run in shingles(normalized(question).split(), RUN):
                self._by_run.setdefault(run, []).append(number)

    def __len__(self) -> int:
        return self._count

    def overlap(self, question: str) -> float:
        """Returns the largest share of the question's three-word runs found in one evaluation question."""
        runs = shingles(normalized(question).split(), RUN)
        hits = Counter(number for run in runs for number in self._by_run.get(run, ()))
        return max(hits.values(), default=0) / len(runs) if runs else 0.0
