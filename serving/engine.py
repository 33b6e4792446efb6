"""Continuous batching: one thread writes all answers, token by token; questions join between two steps."""

import logging
import threading
from collections import deque
from typing import Any

from .batch import RunningBatch
from .tickets import FAILED, FOUND, Found, Ticket
from .writing import Answer, choose_tokens

logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """More questions wait than the engine lets wait; ask again later."""


class ClosingError(Exception):
    """The engine takes no more questions: it is closing or was closed."""


class Engine:
    """Answers tickets, up to `max_batch` at once.

    A waiting question joins the batch as soon as a row is free: it need not wait for the others' answers to
    end. Answers are those of `model.generate` with the same settings.

    Args:
        model: A `ClaraForRetrievalGeneration` with its processor; it is put into eval mode.
        max_batch: Answers written at once.
        max_queue: Questions that may wait for a row.
        gather_seconds: An idle engine waits so long for a first question's companions.
    """

    def __init__(
        self, model: Any, max_batch: int = 16, max_queue: int = 64, gather_seconds: float = 0.01
    ) -> None:
        for name, value in (("max_batch", max_batch), ("max_queue", max_queue)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        self.model = model.eval()
        self.max_batch, self.max_queue, self.gather_seconds = max_batch, max_queue, gather_seconds
        self.steps = self.row_steps = 0
        self._batch = RunningBatch(model)
        self._answers: list[Answer] = []
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="clara-engine", daemon=True)

    def start(self) -> None:
        """Starts the engine's thread."""
        self._thread.start()

    def close(self, drain: bool = True, timeout: float | None = None) -> bool:
        """Takes no more questions and ends the thread.

        Args:
            drain: Answer what was taken first; otherwise those tickets fail with `ClosingError`.
            timeout: Seconds to wait for the end; None waits as long as it takes.

        Returns:
            Whether the thread has ended.
        """
        with self._changed:
            self._closing = True
            if not drain:
                for ticket in [*self._waiting, *(answer.ticket for answer in self._answers)]:
                    ticket.tell(FAILED, ClosingError("The server is shutting down."))
                    ticket.cancel()
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def submit(self, ticket: Ticket) -> None:
        """Takes a question.

        Raises:
            QueueFullError: If `max_queue` questions wait already.
            ClosingError: If the engine is closing.
        """
        with self._changed:
            if self._closing:
                raise ClosingError("The engine is closing and takes no more questions.")
            self._waiting = deque(waiting for waiting in self._waiting if not waiting.cancelled)
            if len(self._waiting) >= self.max_queue:
                raise QueueFullError(f"{self.max_queue} questions wait already, which is the limit.")
            self._waiting.append(ticket)
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Questions that wait for a row."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers being written."""
        return len(self._answers)

    @property
    def ready(self) -> bool:
        """Whether questions are taken and answered."""
        return self._thread.is_alive() and not self._closing

    def _run(self) -> None:
        while (tickets := self._take()) is not None:
            try:
                self._leave()
                for group in _alike(tickets):
                    self._join(group)
                self._step()
            except Exception as error:
                logger.exception("a step failed; its %d answers are lost", len(self._answers))
                for ticket in [*(answer.ticket for answer in self._answers), *tickets]:
                    ticket.tell(FAILED, error)
                    ticket.cancel()
                self._answers = []
                self._batch.clear()

    def _take(self) -> list[Ticket] | None:
        """The questions that join now; waits while there is nothing to do; None when all is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._answers or self._closing)
            if not self._answers and self._waiting:
                enough = self.max_batch
                self._changed.wait_for(
                    lambda: len(self._waiting) >= enough or self._closing, self.gather_seconds
                )
            taken = []
            while self._waiting and len(self._answers) + len(taken) < self.max_batch:
                ticket = self._waiting.popleft()
                if not ticket.cancelled:
                    taken.append(ticket)
            over = self._closing and not (taken or self._waiting or self._answers)
            return None if over else taken

    def _leave(self) -> None:
        """Lets cancelled answers leave the batch."""
        self._keep([row for row, answer in enumerate(self._answers) if not answer.ticket.cancelled])

    def _keep(self, rows: list[int]) -> None:
        if len(rows) < len(self._answers):
            self._batch.change(rows)
            self._answers = [self._answers[row] for row in rows]

    def _join(self, tickets: list[Ticket]) -> None:
        """Lets questions of one memory join: retrieves, reads their prompts; a bad one fails alone."""
        try:
            first = tickets[0]
            questions = [ticket.question for ticket in tickets]
            found, embeds, mask = self.model.embed_prompts(questions, first.memory, first.retrieval_top_k)
            logits, cache = self._batch.read(embeds, mask)
        except Exception as error:
            if len(tickets) > 1:
                for ticket in tickets:
                    self._join([ticket])
                return
            logger.warning("a question could not be read: %s", type(error).__name__, exc_info=error)
            tickets[0].tell(FAILED, error)
            return
        lengths = mask.sum(dim=-1).tolist()
        for row, ticket in enumerate(tickets):
            indices = found.indices[row]
            texts = [ticket.memory.texts[index] for index in indices]
            scores = found.scores[row][: len(indices)].tolist()
            ticket.tell(FOUND, Found(found.document_ids[row], scores, texts, lengths[row]))
        self._batch.change(list(range(len(self._answers))), mask, cache)
        answers = [self._answer(ticket) for ticket in tickets]
        self._write(logits, answers)
        self._answers = [*self._answers, *answers]
        self._keep([row for row, answer in enumerate(self._answers) if not answer.finished])

    def _answer(self, ticket: Ticket) -> Answer:
        model = self.model
        tokenizer, strip = model.processor.tokenizer, model.config.strip_answers
        return Answer(ticket, model.generation_config, tokenizer, strip, model.device)

    def _step(self) -> None:
        """One more token for every answer."""
        if not self._answers:
            return
        self.steps += 1
        self.row_steps += len(self._answers)
        self._write(self._batch.step([answer.ids[-1] for answer in self._answers]), self._answers)
        self._keep([row for row, answer in enumerate(self._answers) if not answer.finished])

    @staticmethod
    def _write(logits: Any, answers: list[Answer]) -> None:
        for answer, token in zip(answers, choose_tokens(logits, answers), strict=True):
            answer.add(token)


def _alike(tickets: list[Ticket]) -> list[list[Ticket]]:
    """Tickets grouped by memory and number of passages, so that each group is read in one pass."""
    groups: dict[tuple[int, int | None], list[Ticket]] = {}
    for ticket in tickets:
        groups.setdefault((id(ticket.memory), ticket.retrieval_top_k), []).append(ticket)
    return list(groups.values())
