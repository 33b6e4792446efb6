"""The answers of one question, one for each way in which its memories are read; the likeliest is told."""

from dataclasses import replace

import torch

from ..prompts_clara import NOT_FOUND, choose_answers, refusals_last
from .requests import DONE, FAILED, PIECE, EngineRequest, Event, Finished


class Candidates:
    """The answers to a request; each is written in a row of its own.

    Args:
        request: What was asked, with `reading` "each". It is told the likeliest answer when all are there, in
            one piece; and the failure of any of them, which ends them all.
        scores: K cosines of the passages.
        count: How many answers, as `Engine.readings` says.
        least: `config.reading_min_score`.
        joint: `config.reading_joint`.
    """

    def __init__(
        self,
        request: EngineRequest,
        scores: list[float],
        count: int,
        least: float | None = None,
        joint: float | None = None,
    ) -> None:
        self._request, self._scores, self._count = request, scores, count
        self._least, self._joint = least, joint
        self._done: dict[int, Finished] = {}

    def requests(self) -> list[EngineRequest]:
        """A request for each answer; when one of them or the request is given up, all are."""
        return [
            replace(self._request, deliver=lambda event, row=row: self._deliver(row, event), row=row)
            for row in range(self._count)
        ]

    def _deliver(self, row: int, event: Event) -> None:
        if event.kind == FAILED:
            self._request.tell(FAILED, event.value)
        if event.kind != DONE:
            return
        self._done[row] = event.value
        if len(self._done) == self._count:
            chosen = self._chosen([self._done[place] for place in range(self._count)])
            self._request.tell(PIECE, chosen.answer)
            self._request.tell(DONE, chosen)

    def _chosen(self, done: list[Finished]) -> Finished:
        """The likeliest answer with its passage, or that nothing was found."""
        likely, odds = torch.tensor([[answer.log_prob, answer.odds] for answer in done]).T
        if self._least is None:
            likely = refusals_last(likely, [answer.answer for answer in done])
        scores = torch.tensor([self._scores])
        (place,) = choose_answers(likely, odds, [len(done)], scores, self._least, self._joint)
        return Finished(NOT_FOUND, "stop", 0) if place is None else done[place]
