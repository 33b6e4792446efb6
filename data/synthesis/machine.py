"""The path of one document: questions, answers, judgements, coverage rounds; paraphrase, judgement, retry.

Every call is a function of the document and of earlier replies, so a killed run that finds its finished
calls in the request cache takes the same path again without repeating one.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel

from . import prompts
from .structured import BadReplyError, ask
from .teacher import Teacher, all_or_cancel
from .texts import normalized

Form = TypeVar("Form", bound=BaseModel)

KINDS = ("simple", "complex", "paraphrase")
# Room for a reply of each kind, so that a model that does not stop costs little.
ANSWER_TOKENS = 256
VERDICT_TOKENS = 64
QUESTION_TOKENS = 64
FRAME_TOKENS = 64
BYTES_PER_TOKEN = 2


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
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ValueError(f"`kinds` must name at least one of {', '.join(KINDS)}, got {list(self.kinds)}.")
        for name in ("max_questions", "max_attempts", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("max_rounds", "temperature"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Pair:
    """A question and its answer."""

    question: str
    answer: str  # the answer from the document
    round: int = 0  # the coverage round that brought it, 0 for the first questions


@dataclass
class Signal:
    """One kind of signal of one document."""

    kind: str  # "simple", "complex" or "paraphrase"
    accepted: bool = False  # whether it passed its last check
    reason: str = ""  # why it did not; empty if it did
    pairs: list[Pair] = field(default_factory=list)  # accepted question-answer pairs (simple and complex)
    text: str = ""  # the paraphrase
    rounds: int = 0  # coverage rounds, or attempts at the paraphrase
    rejected: dict[str, int] = field(default_factory=dict)  # pairs dropped on the way, by reason

    def drop(self, reason: str) -> None:
        """Counts one dropped pair."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1


@dataclass
class DocumentOutcome:
    """One document with everything that was made of it."""

    id: str
    document: str  # its text as the compressor reads it
    signals: list[Signal] = field(default_factory=list)  # one for each kind that was asked for

    @property
    def accepted(self) -> bool:
        """Whether at least one signal was accepted."""
        return any(signal.accepted for signal in self.signals)


async def synthesize_document(
    id: str, document: str, teacher: Teacher, settings: SynthesisSettings
) -> DocumentOutcome:
    """Makes all signals of one document, as the compressor will read it; the kinds run side by side.

    Returns:
        The outcome, with every signal accepted or rejected with its reason.

    Raises:
        TeacherUnavailableError: if no call can succeed.
        TeacherStoppedError: if the teacher has stopped answering.
    """
    if not document.strip():
        empty = [Signal(kind, reason="empty_document") for kind in settings.kinds]
        return DocumentOutcome(id, document, empty)
    desk = _Desk(document, teacher, settings)
    signals = (desk.paraphrase() if kind == "paraphrase" else desk.questions(kind) for kind in settings.kinds)
    return DocumentOutcome(id, document, await all_or_cancel(*signals))


class _Desk:
    """One document on the table of one teacher."""

    def __init__(self, document: str, teacher: Teacher, settings: SynthesisSettings) -> None:
        self.document, self.teacher, self.settings = document, teacher, settings
        self._size = len(document.encode("utf-8", "replace"))

    async def questions(self, kind: str) -> Signal:
        """Runs the rounds of one kind of questions until nothing is uncovered.

        Round 0 brings the first questions; each later round the questions of the coverage check before it.
        """
        signal, asked, limit = Signal(kind), {}, self.settings.max_questions
        try:
            prompt = self._fill(prompts.QUESTIONS[kind], limit=limit)
            room = FRAME_TOKENS + QUESTION_TOKENS * limit
            reply = await self._ask(prompt, prompts.Questions, f"{kind} questions", room, sample=True)
            new = self._fresh(reply.questions, asked)
            for round in range(self.settings.max_rounds + 1):
                if not new:
                    break
                signal.rounds = round
                await self._answer_all(signal, new)
                listed = "\n".join(f"- {question}" for question in asked.values())
                prompt = self._fill(prompts.COVERAGE[kind], questions=listed)
                reply = await self._ask(prompt, prompts.Coverage, f"{kind} coverage {round}")
                new = self._fresh(reply.questions, asked)
            if new:
                signal.reason = "not_covered"
        except BadReplyError as error:
            signal.reason = error.reason
        if not signal.reason and not signal.pairs:
            signal.reason = "no_pairs"
        signal.accepted = not signal.reason
        return signal

    async def paraphrase(self) -> Signal:
        """Writes the document in other words until a judgement finds nothing lost or added."""
        signal = Signal("paraphrase")
        verdict, feedback = prompts.ParaphraseVerdict(faithful=False), ""
        try:
            for signal.rounds in range(1, self.settings.max_attempts + 1):
                prompt = self._fill(prompts.PARAPHRASE, feedback=feedback)
                step, room = f"paraphrase {signal.rounds}", FRAME_TOKENS + self._size // BYTES_PER_TOKEN
                reply = await self._ask(prompt, prompts.Paraphrase, step, room, sample=True)
                text = reply.paraphrase.strip()
                if text:
                    prompt = self._fill(prompts.JUDGE_PARAPHRASE, paraphrase=text)
                    verdict = await self._ask(prompt, prompts.ParaphraseVerdict, "paraphrase verdict")
                if text and verdict.faithful and not verdict.missing and not verdict.added:
                    signal.text, signal.accepted = text, True
                    return signal
                feedback = _feedback(verdict) if text else ""
            signal.reason = "not_faithful"
        except BadReplyError as error:
            signal.reason = error.reason
        return signal

    def _fresh(self, questions: Sequence[str], asked: dict[str, str]) -> list[str]:
        """Returns the questions that were not asked yet, and notes them as asked."""
        fresh = []
        for question in (question.strip() for question in questions[: 4 * self.settings.max_questions]):
            key = normalized(question)
            if key and key not in asked:
                asked[key] = question
                fresh.append(question)
        return fresh

    async def _answer_all(self, signal: Signal, questions: Sequence[str]) -> None:
        """Answers and judges questions side by side; keeps the right pairs and counts the others."""
        results = await all_or_cancel(*(self._answer(question) for question in questions))
        for question, (answer, reason) in zip(questions, results, strict=True):
            if reason:
                signal.drop(reason)
            else:
                signal.pairs.append(Pair(question, answer, signal.rounds))

    async def _answer(self, question: str) -> tuple[str, str]:
        """Answers and judges one question; gives the answer and the reason for dropping it, if any."""
        try:
            prompt = self._fill(prompts.ANSWER, question=question)
            reply = await self._ask(prompt, prompts.Answer, "answer", ANSWER_TOKENS)
            answer = reply.answer.strip()
            if not reply.answerable or not answer:
                return "", "unanswerable"
            prompt = self._fill(prompts.JUDGE_PAIR, question=question, answer=answer)
            verdict = await self._ask(prompt, prompts.PairVerdict, "pair verdict", VERDICT_TOKENS)
        except BadReplyError as error:
            return "", error.reason
        return (answer, "") if verdict.correct else ("", "judged_incorrect")

    def _fill(self, prompt: str, **fields: object) -> str:
        return prompt.format(document=prompts.tagged(self.document), **fields)

    async def _ask(
        self, prompt: str, form: type[Form], step: str, room: int | None = None, sample: bool = False
    ) -> Form:
        """Asks within `room` tokens, and never more than the settings allow."""
        max_tokens = min(room or self.settings.max_tokens, self.settings.max_tokens)
        temperature = self.settings.temperature if sample else 0.0
        seed = _seed(self.settings.seed, self.document, step) if temperature else 0
        return await ask(self.teacher, prompt, form, max_tokens, temperature, seed)


def _feedback(verdict: prompts.ParaphraseVerdict) -> str:
    """What the next attempt at a paraphrase is told, if the judgement named anything."""
    if not verdict.missing and not verdict.added:
        return ""
    missing, added = (
        json.dumps(items, ensure_ascii=False) if items else "nothing"
        for items in (verdict.missing, verdict.added)
    )
    return prompts.PARAPHRASE_FEEDBACK.format(missing=missing, added=added)


def _seed(seed: int, document: str, step: str) -> int:
    """Derives a call's seed from the synthesis' seed, the document and the step."""
    digest = hashlib.sha256(f"{seed}\0{step}\0{document}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF
