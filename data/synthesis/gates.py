"""Quality gates after generation: each looks at a pair or a paraphrase and names its reason to refuse it."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from .machine import DocumentOutcome, Pair, Signal
from .texts import (
    contains_run,
    content_words,
    jaccard,
    names,
    normalized,
    numbers,
    share_inside,
    shingles,
    words,
)

_LEAK = re.compile(
    r"\b(?:the|this|given|provided)\s+(?:above\s+|given\s+|provided\s+|following\s+)?"
    r"(?:document|passage|text|article|paragraph|excerpt|context|snippet)\b(?! of\b)"
    r"|\b(?:mentioned|described|stated|listed|given)\s+(?:above|below)\b|\baccording to the author\b",
    re.IGNORECASE,
)
Seen = list[tuple[set[str], tuple[str, frozenset[str]]]]
LEAST_WORDS, LEAST_CONFIDENCE = 12, 0.95
RUN = 3
_YES_NO = frozenset({"yes", "no", "true", "false"})


@dataclass(frozen=True)
class GateSettings:
    """The limits of the gates."""

    question_words: tuple[int, int] = (3, 80)  # least and most words of a question
    answer_words: tuple[int, int] = (1, 60)  # least and most words of an answer
    min_support: float = 0.5  # least share of an answer's content words in the document, and all its numbers
    max_similarity: float = 0.85  # most word overlap (Jaccard) of a document's questions with the same answer
    max_copied: float = 0.6  # most share of a paraphrase's four-word runs that stand in the document
    min_numbers: float = 1.0  # least share of the document's numbers that a paraphrase keeps; it may add none
    min_names: float = 0.8  # least share of the document's names that a paraphrase keeps
    length_ratio: tuple[float, float] = (0.5, 2.0)  # least and most, of a paraphrase to its document
    max_overlap: float = 0.7  # most share of a question's three-word runs in one evaluation question
    check_language: bool = True  # whether pairs and paraphrases must be in the document's language


class EvaluationQuestions:
    """Questions that must not be trained on, found by their runs of three words."""

    def __init__(self, questions: Iterable[str]) -> None:
        self._by_run: dict[tuple[str, ...], list[int]] = {}
        for number, question in enumerate(questions):
            for run in shingles(words(question), RUN):
                self._by_run.setdefault(run, []).append(number)

    def overlap(self, question: str) -> float:
        """Returns the largest share of the question's three-word runs found in one evaluation question."""
        runs = shingles(words(question), RUN)
        hits = Counter(number for run in runs for number in self._by_run.get(run, ()))
        return max(hits.values(), default=0) / len(runs) if runs else 0.0


class Gates:
    """All gates with their limits and the evaluation questions to keep out."""

    def __init__(self, settings: GateSettings, evaluation: EvaluationQuestions | None = None) -> None:
        self.settings, self.evaluation = settings, evaluation or EvaluationQuestions([])

    def apply(self, outcome: DocumentOutcome) -> DocumentOutcome:
        """Returns the outcome without what the gates refuse; every refusal is counted in its signal."""
        seen: Seen = []
        signals = [self._signal(outcome.document, signal, seen) for signal in outcome.signals]
        return DocumentOutcome(outcome.id, outcome.document, signals)

    def _signal(self, document: str, signal: Signal, seen: Seen) -> Signal:
        kept = replace(signal, pairs=[], text="", rejected=dict(signal.rejected))
        if signal.accepted and signal.kind == "paraphrase":
            kept.reason = self.paraphrase_reason(document, signal.text)
            kept.text = "" if kept.reason else signal.text
        elif signal.accepted:
            kept.pairs = list(self._pairs(document, signal.pairs, seen, kept))
            kept.reason = "" if kept.pairs else "no_pairs_left"
        kept.accepted = signal.accepted and not kept.reason
        return kept

    def _pairs(self, document: str, pairs: Sequence[Pair], seen: Seen, signal: Signal) -> Iterable[Pair]:
        asked = " ".join(pair.question for pair in pairs)
        if self.settings.check_language and not same_language(document, asked):
            for _ in pairs:
                signal.drop("language")
            return
        for pair in pairs:
            reason = self.pair_reason(document, pair) or self._repeats(pair, seen)
            if reason:
                signal.drop(reason)
            else:
                yield pair

    def pair_reason(self, document: str, pair: Pair) -> str:
        """Returns why a pair is refused, or an empty string."""
        limits, question, answer = self.settings, words(pair.question), words(pair.answer)
        told = "or" not in question and len(answer) > 1 and contains_run(question, answer)
        refused = {
            "question_length": not limits.question_words[0] <= len(question) <= limits.question_words[1],
            "answer_length": not limits.answer_words[0] <= len(answer) <= limits.answer_words[1],
            "leaked_question": _LEAK.search(pair.question) and not _LEAK.search(document),
            "answer_in_question": told,
            "unsupported_answer": not self._supported(document, pair),
            "contaminated": self.evaluation.overlap(pair.question) > limits.max_overlap,
        }
        return next((reason for reason, holds in refused.items() if holds), "")

    def _supported(self, document: str, pair: Pair) -> bool:
        """Whether the document or the question holds the answer's numbers and enough of its content words.

        A number alone, or one answered to "how many/much/old/long", may be the result of counting or adding
        up.
        """
        if normalized(pair.answer) in _YES_NO:
            return True
        computed = re.search(r"\bhow (?:many|much|old|long|far)\b", pair.question, re.IGNORECASE)
        if not computed and numbers(pair.answer) - numbers(document) - numbers(pair.question):
            return False
        found = [word for word in content_words(pair.answer) if not word.isdigit()]
        there = set(words(document)) | set(words(pair.question))
        return share_inside(found, there) >= self.settings.min_support

    def _repeats(self, pair: Pair, seen: Seen) -> str:
        """Notes a question of the document; says whether it repeats an earlier one.

        Much the same words are a repetition only with the same answer and the same numbers.
        """
        asked, answer = set(words(pair.question)), normalized(pair.answer)
        facts = (answer, frozenset(numbers(pair.question)))
        for other, other_facts in seen:
            if asked == other or (
                facts == other_facts and jaccard(asked, other) > self.settings.max_similarity
            ):
                return "duplicate_question"
        seen.append((asked, facts))
        return ""

    def paraphrase_reason(self, document: str, paraphrase: str) -> str:
        """Returns why a paraphrase is refused, or an empty string."""
        limits, measures = self.settings, paraphrase_measures(document, paraphrase)
        shortest, longest = limits.length_ratio
        refused = {
            "paraphrase_length": not shortest <= measures["length_ratio"] <= longest,
            "paraphrase_copies": measures["copied"] > limits.max_copied,
            "paraphrase_loses_numbers": measures["numbers"] < limits.min_numbers,
            "paraphrase_adds_numbers": measures["added_numbers"],
            "paraphrase_loses_names": measures["names"] < limits.min_names,
            "language": limits.check_language and not same_language(document, paraphrase),
        }
        return next((reason for reason, holds in refused.items() if holds), "")


def paraphrase_measures(document: str, paraphrase: str) -> dict[str, float]:
    """Measures a paraphrase against its document.

    Returns:
        `length_ratio` (words to words), `copied` (share of its four-word runs in the document), `numbers`
        and `names` (shares of the document's that it keeps), `added_numbers` (how many it adds).
    """
    source, target = words(document), words(paraphrase)
    return {
        "length_ratio": len(target) / max(len(source), 1),
        "copied": share_inside(shingles(target, 4), shingles(source, 4)) if target else 0.0,
        "numbers": share_inside(numbers(document), numbers(paraphrase)),
        "names": share_inside(names(document), set(target) | names(paraphrase)),
        "added_numbers": float(len(numbers(paraphrase) - numbers(document))),
    }


def same_language(left: str, right: str) -> bool:
    """Returns False only if both languages are recognised with confidence and differ."""
    first, second = language_of(left), language_of(right)
    return first is None or second is None or first == second


def language_of(text: str) -> str | None:
    """Returns the ISO 639-1 code of a text, or None if it is too short or not clear."""
    if len(text.split()) < LEAST_WORDS:
        return None
    code, confidence = _identifier().classify(text)
    return str(code) if confidence >= LEAST_CONFIDENCE else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
