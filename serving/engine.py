"""Continuous batching: one thread writes all answers, token by token; questions join between two steps."""

import json
import logging
import threading
from collections import deque
from typing import Any

import torch

from ..prompts_clara import NOT_FOUND, alone_and_together, plain_ids
from .batch import RunningBatch
from .candidates import Candidates
from .decoding import Answer
from .requests import DONE, FAILED, FOUND, PIECE, EngineRequest, Finished, Found

logger = logging.getLogger(__name__)
BROKEN = 3  # steps in which every answer failed, one after the other: the engine is not well


class QueueFullError(Exception):
    """More questions wait than the engine lets wait; ask again later."""


class ClosingError(Exception):
    """The engine takes no more questions: it is closing or was closed."""


class Engine:
    """Answers requests, up to `max_batch` at once.

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
        self.steps = self.row_steps = self._broken = 0
        self._batch = RunningBatch(model)
        self._answers: list[Answer] = []
        self._waiting: deque[EngineRequest] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="clara-engine", daemon=True)

    def start(self) -> None:
        """Starts the engine's thread."""
        self._thread.start()

    def close(self, drain: bool = True, timeout: float | None = None) -> bool:
        """Takes no more questions and ends the thread.

        Args:
            drain: Answer what was taken first; otherwise those requests fail with `ClosingError`.
            timeout: Seconds to wait for the end; None waits as long as it takes.

        Returns:
            Whether the thread has ended.
        """
        with self._changed:
            self._closing = True
            if not drain:
                for request in [*self._waiting, *(answer.request for answer in self._answers)]:
                    request.tell(FAILED, ClosingError("The server is shutting down."))
                    request.cancel()
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def submit(self, request: EngineRequest) -> None:
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
            self._waiting.append(request)
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
        return self._thread.is_alive() and not self._closing and self._broken < BROKEN

    def _run(self) -> None:
        while (requests := self._take()) is not None:
            try:
                self._leave()
                for group in _alike(requests):
                    self._join(group)
                self._step()
            except Exception as error:
                logger.exception("a step failed; its %d answers are lost", len(self._answers))
                for request in [*(answer.request for answer in self._answers), *requests]:
                    request.tell(FAILED, error)
                    request.cancel()
                self._answers = []
                self._batch.clear()

    def _take(self) -> list[EngineRequest] | None:
        """The questions that join now; waits while there is nothing to do; None when all is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._answers or self._closing)
            if not self._answers and self._waiting:
                enough = self.max_batch
                self._changed.wait_for(
                    lambda: len(self._waiting) >= enough or self._closing, self.gather_seconds
                )
            taken = []
            rows = len(self._answers)
            while self._waiting and rows + (more := self.rows(self._waiting[0])) <= self.max_batch:
                request = self._waiting.popleft()
                if not request.cancelled:
                    taken.append(request)
                    rows += more
            over = self._closing and not (taken or self._waiting or self._answers)
            return None if over else taken

    def readings(self, k: int) -> int:
        """How many answers to a question with K memories are written with `reading` "each"."""
        return len(alone_and_together(range(k), self.model.config.reading_joint))

    def rows(self, request: EngineRequest) -> int:
        """Rows of the batch that a request takes; all of them at most."""
        k = self.model.config.retrieval_top_k if request.retrieval_top_k is None else request.retrieval_top_k
        several = min(self.readings(min(k, len(request.memory))), self.max_batch)
        return 1 if request.reading == "together" else several

    def _leave(self) -> None:
        """Lets cancelled answers leave the batch."""
        self._keep([row for row, answer in enumerate(self._answers) if not answer.request.cancelled])

    def _keep(self, rows: list[int]) -> None:
        if len(rows) < len(self._answers):
            self._batch.change(rows)
            self._answers = [self._answers[row] for row in rows]

    def _join(self, requests: list[EngineRequest]) -> None:
        """Lets questions of one memory join: retrieves, reads their prompts; a bad one fails alone."""
        try:
            found, embeds, mask = self._prompts(requests)
            logits, cache = self._batch.read(embeds, mask)
        except Exception as error:
            if len(requests) > 1:
                for request in requests:
                    self._join([request])
                return
            self._fail(requests[0], error)
            return
        lengths, least = mask.sum(dim=-1).tolist(), self.model.config.retrieval_min_score
        each = requests[0].reading == "each"
        for row, request in enumerate(requests):
            request.tell(FOUND, _found(request.memory, found, row, sum(lengths) if each else lengths[row]))
            if least is not None and found.scores[row].max().item() < least:
                request.tell(PIECE, NOT_FOUND)
                request.tell(DONE, Finished(NOT_FOUND, "stop", 0))
                request.cancel()  # its row leaves before the next step
        self._batch.change(list(range(len(self._answers))), mask, cache)
        if each:
            config = self.model.config
            limits = (config.reading_min_score, config.reading_joint)
            requests = Candidates(requests[0], found.scores[0].tolist(), len(mask), *limits).requests()
        answers = [self._answer(request) for request in requests]
        self._write(logits, answers)
        self._answers = [*self._answers, *answers]
        self._keep([row for row, answer in enumerate(self._answers) if not answer.finished])

    @torch.no_grad()
    def _prompts(self, requests: list[EngineRequest]) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """What was found, embeddings and mask: a row a question, or of one question a row a reading."""
        first, model = requests[0], self.model
        questions = [request.question for request in requests]
        if first.reading == "together":
            return model.embed_prompts(questions, first.memory, first.retrieval_top_k, **first.search)
        found = model.retrieve(questions, first.memory, first.retrieval_top_k, **first.search)
        if not found.indices[0]:
            raise ValueError(f"`where` {first.search['where']!r} lets no passage through.")
        memories = alone_and_together(first.memory.gather(found.indices[0]), model.config.reading_joint)
        with model.lock:
            return found, *model.embed_answers(questions * len(memories), memories)

    def _answer(self, request: EngineRequest) -> Answer:
        model = self.model
        tokenizer, strip = model.processor.tokenizer, model.config.strip_answers
        guarded = request.reading == "each" and model.config.reading_min_score is not None
        refusal = plain_ids(tokenizer, [NOT_FOUND])[0][0] if guarded else None
        return Answer(request, model.generation_config, tokenizer, strip, model.device, refusal)

    def _step(self) -> None:
        """One more token for every answer."""
        if not self._answers:
            return
        self.steps += 1
        self.row_steps += len(self._answers)
        try:
            logits, self._broken = self._batch.step([answer.ids[-1] for answer in self._answers]), 0
        except Exception:
            logger.exception("a step of %d answers failed; each is tried alone", len(self._answers))
            logits = self._step_alone()
        if self._answers:
            self._write(logits, self._answers)
        self._keep([row for row, answer in enumerate(self._answers) if not answer.finished])

    def _step_alone(self) -> torch.Tensor | None:
        """The failed step for each answer by itself; those that fail again leave, the others go on.

        Every prompt and what was written after it is read anew: the cache may be half changed.
        """
        answers, kept = self._answers, []
        for answer in answers:
            self._batch.clear()
            try:
                self._batch.change([], *self._read_again(answer))
                logits = self._batch.step(answer.ids[-1:])
                kept.append((answer, logits, self._batch.mask, self._batch.cache))
            except Exception as error:
                self._fail(answer.request, error)
        self._broken = 0 if kept else self._broken + 1
        self._batch.clear()
        self._answers = []
        for answer, _, mask, cache in kept:
            self._batch.change(list(range(len(self._answers))), mask, cache)
            self._answers.append(answer)
        return torch.cat([logits for _, logits, _, _ in kept]) if kept else None

    def _read_again(self, answer: Answer) -> tuple[torch.Tensor, Any]:
        """Mask and cache of an answer's prompt and all its tokens but the last."""
        _, embeds, mask = self._prompts([answer.request])
        embeds, mask = embeds[[answer.request.row]], mask[[answer.request.row]]
        ids = torch.tensor([answer.ids[:-1]], dtype=torch.long, device=embeds.device)
        embeds = torch.cat([embeds, self.model.get_input_embeddings()(ids).to(embeds)], dim=1)
        mask = torch.nn.functional.pad(mask, (0, ids.shape[1]), value=1)
        return mask, self._batch.read(embeds.detach(), mask)[1]

    def _write(self, logits: torch.Tensor, answers: list[Answer]) -> None:
        """Takes a token for each answer; one whose own settings fail fails alone."""
        likeliest = logits.argmax(dim=-1).tolist()
        for row, answer in enumerate(answers):
            try:
                answer.add(likeliest[row] if answer.plain else answer.choose(logits[row : row + 1]))
            except Exception as error:
                self._fail(answer.request, error)
                answer.finished = True

    @staticmethod
    def _fail(request: EngineRequest, error: Exception) -> None:
        logger.warning("a question failed: %s", type(error).__name__, exc_info=error)
        request.tell(FAILED, error)
        request.cancel()


def _alike(requests: list[EngineRequest]) -> list[list[EngineRequest]]:
    """Requests grouped by memory, number of passages and search, so that each group is read in one pass.

    One that reads each memory alone is a group of its own.
    """
    groups: dict[tuple, list[EngineRequest]] = {}
    for request in requests:
        search = json.dumps(request.search, sort_keys=True)
        alone = id(request) if request.reading == "each" else None
        groups.setdefault((id(request.memory), request.retrieval_top_k, search, alone), []).append(request)
    return list(groups.values())


def _found(memory: Any, found: Any, row: int, prompt_tokens: int) -> Found:
    """What was found for one of several questions."""
    indices = found.indices[row]
    return Found(
        found.document_ids[row],
        [memory.parents[index] for index in indices],
        found.scores[row][: len(indices)].tolist(),
        [memory.texts[index] for index in indices],
        prompt_tokens,
    )
