"""The answers of one question from each of its memories alone, of which the likeliest is told."""

from dataclasses import replace

import torch

from ..generation_clara import NOT_FOUND, READING_TEMPERATURE
from ..retrieval_clara import best_answers
from .requests import DONE, FAILED, PIECE, EngineRequest, Event, Finished


class Candidates:
    """K answers to a request; each is written in a row of its own.

    Args:
        request: What was asked, with `reading` "each". It is told the likeliest answer when all K are
            there, in one piece; and the failure of any of them, which ends them all.
        scores: K cosines of the passages.
    """

    def __init__(self, request: EngineRequest, scores: list[float]) -> None:
        self._request, self._scores = request, scores
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
        count = len(self._scores)
        if len(self._done) == count:
            likely = torch.tensor([self._done[place].log_prob for place in range(count)])
            found = [self._done[place].answer != NOT_FOUND for place in range(count)]
            (best,) = best_answers(likely, found, [count], torch.tensor([self._scores]), READING_TEMPERATURE)
            self._request.tell(PIECE, self._done[best].answer)
            self._request.tell(DONE, self._done[best])
