"""The answers of one question from each of its memories alone, of which the likeliest is told."""

from dataclasses import replace

import torch

from ..generation_clara import READING_TEMPERATURE
from ..prompts_clara import NOT_FOUND
from ..retrieval_clara import best_memories
from .requests import DONE, FAILED, PIECE, EngineRequest, Event, Finished


class Candidates:
    """K answers to a request; each is written in a row of its own.

    Args:
        request: What was asked, with `reading` "each". It is told the likeliest answer when all K are
            there, in one piece; and the failure of any of them, which ends them all.
        scores: K cosines of the passages.
        least: `config.reading_min_score`.
    """

    def __init__(self, request: EngineRequest, scores: list[float], least: float | None = None) -> None:
        self._request, self._scores, self._least = request, scores, least
        self._done: dict[int, Finished] = {}

    def requests(self) -> list[EngineRequest]:
        """K requests, one a memory; when one of them or the request is given up, all are."""
        return [
            replace(self._request, deliver=lambda event, row=row: self._deliver(row, event), row=row)
            for row in range(len(self._scores))
        ]

    def _deliver(self, row: int, event: Event) -> None:
        if event.kind == FAILED:
            self._request.tell(FAILED, event.value)
        if event.kind != DONE:
            return
        self._done[row] = event.value
        if len(self._done) == len(self._scores):
            chosen = self._chosen([self._done[place] for place in range(len(self._scores))])
            self._request.tell(PIECE, chosen.answer)
            self._request.tell(DONE, chosen)

    def _chosen(self, done: list[Finished]) -> Finished:
        """The likeliest answer with its passage, or that nothing was found."""
        likely = torch.tensor([answer.log_prob for answer in done])
        if self._least is None:
            likely[[answer.answer == NOT_FOUND for answer in done]] = -1e4
        sums = [
            best_memories(values, [len(done)], torch.tensor([self._scores]), READING_TEMPERATURE)[0]
            for values in (likely, torch.tensor([answer.odds for answer in done]))
        ]
        if self._least is not None and sums[1][1] < self._least:
            return Finished(NOT_FOUND, "stop", 0)
        return done[sums[0][0]]
