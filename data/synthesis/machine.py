"""The path of one document: questions, answers, judgements, coverage rounds; paraphrase, judgement, retry.

Every call is a function of the document and of earlier replies, so a killed run that finds its finished
calls in the request cache takes the same path again without repeating one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel

from . import prompts
from .outcomes import DocumentOutcome, Pair, Signal
from .settings import SynthesisSettings
from .structured import BadReplyError, ask
from .teacher import Teacher
from .texts import normalized

Form = TypeVar("Form", bound=BaseModel)

# Room for a reply of each kind, so that a model that does not stop costs little.
ANSWER_TOKENS = 256
VERDICT_TOKENS = 64
QUESTION_TOKENS = 64
FRAME_TOKENS = 64
BYTES_PER_TOKEN = 2


async def synthesize_document(
    id: str, document: str, teacher: Teacher, settings: SynthesisSettings
) -> DocumentOutcome:
    """Makes all signals of one document; the kinds run side by side.

    Args:
        id: the document's id.
        document: its text, as the compressor will read it.
        teacher: who answers.
        settings: which signals, and their limits.

    Returns:
        The outcome, with every signal accepted or rejected with its reason.

    Raises:
        TeacherUnavailableError: if no call can succeed.
        TeacherStoppedError: if the teacher has stopped answering.
    """
    if not document.strip():
        return DocumentOutcome(id, document, reason="empty_document")
    desk = _Desk(document, teacher, settings)
    signals = (desk.paraphrase() if kind == "paraphrase" else desk.questions(kind) for kind in settings.kinds)
    return DocumentOutcome(id, document, await all_or_cancel(*signals))


async def all_or_cancel(*calls: object) -> list:
    """Awaits all calls; if one fails, ends the others before the error goes on."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


class _Desk:
    """One document on the table of one teacher."""

    def __init__(self, document: str, teacher: Teacher, settings: SynthesisSettings) -> None:
        self.document, self.teacher, self.settings = document, teacher, settings
        self._size = len(document.encode("utf-8", "replace"))

    async def questions(self, kind: str) -> Signal:
        """Runs the rounds of one kind of questions until nothing is uncovered.

        Round 0 brings the first questions; each later round the questions of the coverage check before it.
        """
        signal, asked = Signal(kind), {}
        try:
            prompt = prompts.questions_prompt(kind, self.document, self.settings.max_questions)
            room = FRAME_TOKENS + QUESTION_TOKENS * self.settings.max_questions
            reply = await self._ask(prompt, prompts.Questions, f"{kind} questions", room, sample=True)
            new = self._fresh(reply.questions, asked)
            for round in range(self.settings.max_rounds + 1):
                if not new:
                    break
                signal.rounds = round
                await self._answer_all(signal, new)
                new = self._fresh(await self._uncovered(kind, list(asked.values()), round), asked)
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
        missing: Sequence[str] = ()
        added: Sequence[str] = ()
        try:
            for signal.rounds in range(1, self.settings.max_attempts + 1):
                prompt = prompts.paraphrase_prompt(self.document, missing, added)
                step, room = f"paraphrase {signal.rounds}", FRAME_TOKENS + self._size // BYTES_PER_TOKEN
                reply = await self._ask(prompt, prompts.Paraphrase, step, room, sample=True)
                text = reply.paraphrase.strip()
                verdict = await self._judge_paraphrase(text)
                if verdict.faithful and not verdict.missing and not verdict.added:
                    signal.text, signal.accepted = text, True
                    return signal
                missing, added = verdict.missing, verdict.added
            signal.reason = "not_faithful"
        except BadReplyError as error:
            signal.reason = error.reason
        return signal

    async def _judge_paraphrase(self, text: str) -> prompts.ParaphraseVerdict:
        if not text:
            return prompts.ParaphraseVerdict(faithful=False)
        prompt = prompts.judge_paraphrase_prompt(self.document, text)
        return await self._ask(prompt, prompts.ParaphraseVerdict, "paraphrase verdict")

    async def _uncovered(self, kind: str, asked: Sequence[str], round: int) -> list[str]:
        """Returns questions for the facts that no question asks for yet."""
        prompt = prompts.coverage_prompt(kind, self.document, asked)
        return (await self._ask(prompt, prompts.Coverage, f"{kind} coverage {round}")).questions

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
            prompt = prompts.answer_prompt(self.document, question)
            reply = await self._ask(prompt, prompts.Answer, "answer", ANSWER_TOKENS)
            answer = reply.answer.strip()
            if not reply.answerable or not answer:
                return "", "unanswerable"
            prompt = prompts.judge_pair_prompt(self.document, question, answer)
            verdict = await self._ask(prompt, prompts.PairVerdict, "pair verdict", VERDICT_TOKENS)
        except BadReplyError as error:
            return "", error.reason
        return (answer, "") if verdict.correct else ("", "judged_incorrect")

    async def _ask(
        self, prompt: str, form: type[Form], step: str, room: int | None = None, sample: bool = False
    ) -> Form:
        """Asks within `room` tokens, and never more than the settings allow."""
        max_tokens = min(room or self.settings.max_tokens, self.settings.max_tokens)
        temperature = self.settings.temperature if sample else 0.0
        seed = _seed(self.settings.seed, self.document, step) if temperature else 0
        return await ask(self.teacher, prompt, form, max_tokens, temperature, seed)


def _seed(seed: int, document: str, step: str) -> int:
    """Derives a call's seed from the synthesis' seed, the document and the step."""
    digest = hashlib.sha256(f"{seed}\0{step}\0{document}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF
