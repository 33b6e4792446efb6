"""Batches of fixed shape from the arrays of rows.py: near passages, their questions, packed prompts."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .step import Shape

FIXED = ("head", "before", "after", "copy_head", "copy_tail", "say_head", "say_tail", "between", "missing")
FACTORS, FACTOR_SHARES = (1, 2, 4), (0.5, 0.25, 0.25)
SEEDS, POOLS, MEMBERS = 7, 4, 4  # groups of near passages and question pools of a step, passages of a group
READ = 5  # passages of a prompt over several
QUESTIONS, SHARED_QUESTIONS = 6, 4  # questions of a prompt over one passage, over several
FOREIGN_SHARE, SHARED_FOREIGN_SHARE = 0.6, 0.4  # prompts with a question that their passages do not answer
COPY_SHARE, COPY_TOKENS, COPY_WEIGHT = 0.05, 96, 0.2
GOLD_SHARE, TEACHER_TEMPERATURE = 0.5, 0.05
RATE = 4
SHORTEST = 16  # tokens of room that a passage takes at least


class Data:
    """The arrays, with ragged ones by row."""

    def __init__(self, file: Path | str) -> None:
        with np.load(file) as found:
            self.arrays = {name: found[name] for name in found.files}
        for name in ("near", "asked", "ranked", "scores", "held_out", "pool_questions"):
            setattr(self, name, self.arrays[name])
        self.fixed = {name: self.row("fixed", i).tolist() for i, name in enumerate(FIXED)}
        self.passages = len(self.near)
        parts = {kept: self.arrays["weights"] * (self.held_out == kept) for kept in (False, True)}
        self.seed_sums = {kept: np.cumsum(part) for kept, part in parts.items()}
        gold = [self.row("gold", i) for i in self.pool_questions]
        self.pool_held_out = np.array([bool(self.held_out[row].any()) for row in gold], bool)

    def row(self, name: str, index: int) -> np.ndarray:
        """One row of a ragged array."""
        ends = self.arrays[f"{name}_ends"]
        return self.arrays[name][ends[index] : ends[index + 1]]

    def findable(self, question: int) -> bool:
        """Whether a question names its subject."""
        ends = self.arrays["plain_ends"]
        return bool(ends[question + 1] > ends[question])


class Rack:
    """Rows of equal width that are filled with pieces wherever one fits."""

    def __init__(self, rows: int, width: int) -> None:
        self.free, self.width = [width] * rows, width

    def place(self, length: int) -> int | None:
        """Flat place of a piece, None where no row has room."""
        for row, free in enumerate(self.free):
            if free >= length:
                self.free[row] -= length
                return row * self.width + self.width - free
        return None


class Builder:
    """Makes one batch."""

    def __init__(self, data: Data, shape: Shape, rng: np.random.Generator, validation: bool) -> None:
        self.data, self.shape, self.rng, self.validation = data, shape, rng, validation
        s = shape
        self.pair_start, self.four_start = s.vectors, s.vectors + s.vectors // 2 + s.documents
        self.out = {
            **_filled((s.document_rows, s.width), doc_ids=0, doc_texts=-1, doc_places=0),
            **_filled((s.prompt_rows, s.width), ids=0, prompts=-1, segments=0, places=0, slots=-1),
            **_filled((s.question_rows, s.width), ask_ids=0, ask_texts=-1, ask_places=0),
            **_filled((s.vectors,), owners=-1, counts=1),
            **_filled((s.labels,), labels=0, label_places=0),
            **_filled((s.questions, s.targets), targets=0),
            "ask_weights": np.zeros((s.question_rows, s.width), np.float32),
            "label_weights": np.zeros(s.labels, np.float32),
            "label_kinds": np.full(s.labels, -1, np.int64),
            "target_weights": np.zeros((s.questions, s.targets), np.float32),
            "asked": np.zeros(s.questions, np.float32),
            "spans": np.full((s.vectors, RATE), -1, np.int64),
            "pairs": np.full((s.vectors // 2 + s.documents, 2), -1, np.int64),
            "fours": np.full((s.vectors // 4 + s.documents, 4), -1, np.int64),
            "doc_numbers": np.full(s.documents, data.passages, np.int64),
        }
        self.flat = {name: value.reshape(-1) for name, value in self.out.items() if value.ndim == 2}
        self.racks = {
            "doc": Rack(s.document_rows, s.width),
            "": Rack(s.prompt_rows, s.width),
            "ask": Rack(s.question_rows, s.width),
        }
        self.documents: dict[int, tuple[int, int]] = {}  # number to place in the step, and count of vectors
        self.starts, self.used = {1: 0, 2: 0, 4: 0}, {"labels": 0, "asked": 0, "prompts": 0}
        self.slot_places: dict[int, dict[int, range]] = {}

    def build(self) -> dict[str, np.ndarray]:
        """Groups, documents, prompts and questions to search with, by name."""
        groups = [self._near_group() for _ in range(SEEDS)] + [self._pool_group() for _ in range(POOLS)]
        kept = []
        for asked, numbers, learnt in groups:
            held = [number for number in dict.fromkeys(numbers) if self._document(number)]
            kept.append((asked, held, learnt))
        done: set[int] = set()
        for asked, numbers, learnt in kept:
            self._shared_prompt(asked, numbers, learnt)
        for _, numbers, learnt in kept:
            for number in numbers:
                if number in learnt and number not in done:
                    done.add(number)
                    self._single_prompt(number)
        self._searches([q for q, _, _ in kept if q is not None], sorted(done))
        return self.out

    def _near_group(self) -> tuple[int | None, list[int], set[int]]:
        """No question, a passage with some near it, and those of them that are learnt from."""
        data = self.data
        sums = data.seed_sums[self.validation]
        seed = int(np.searchsorted(sums, self.rng.random() * sums[-1], side="right"))
        others = self.rng.permutation(data.near[seed])[: MEMBERS - 1].tolist()
        return None, [seed, *others], self._learnt([seed, *others])

    def _pool_group(self) -> tuple[int, list[int], set[int]]:
        """A question with its gold passages and some of its others."""
        data = self.data
        rows = np.flatnonzero(data.pool_held_out == self.validation)
        row = int(self.rng.choice(rows))
        question = int(data.pool_questions[row])
        gold = data.row("gold", question).tolist()
        others = [n for n in self.rng.permutation(data.row("pools", row)).tolist() if n not in gold]
        numbers = [*gold, *others][: max(READ, len(gold))]
        return question, numbers, self._learnt(numbers)

    def _learnt(self, numbers: Sequence[int]) -> set[int]:
        return {n for n in numbers if bool(self.data.held_out[n]) == self.validation}

    def _document(self, number: int) -> bool:
        """Places a passage and its memory's vectors; whether there was room."""
        if number in self.documents:
            return True
        ids = self.data.row("passages", number)
        count, index = -(-len(ids) // RATE), len(self.documents)
        if not count or index == self.shape.documents or self.starts[1] + count > self.shape.vectors:
            return False
        place = self.racks["doc"].place(len(ids))
        if place is None:
            return False
        self._fill(place, doc_ids=ids, doc_texts=index, doc_places=np.arange(len(ids)))
        start, out = self.starts[1], self.out
        inside = np.full(count * RATE, -1)
        inside[: len(ids)] = place + np.arange(len(ids))
        out["spans"][start : start + count] = inside.reshape(count, RATE)
        out["owners"][start : start + count], out["counts"][start : start + count] = index, count
        self.slot_places[number] = {1: range(start, start + count)}
        for factor, name, first in ((2, "pairs", self.pair_start), (4, "fours", self.four_start)):
            fewer, begin = -(-count // factor), self.starts[factor]
            members = np.full(fewer * factor, -1)
            members[:count] = start + np.arange(count)
            out[name][begin : begin + fewer] = members.reshape(fewer, factor)
            self.slot_places[number][factor] = range(first + begin, first + begin + fewer)
            self.starts[factor] += fewer
        self.starts[1] += count
        self.documents[number] = (index, count)
        out["doc_numbers"][index] = number
        return True

    def _fill(self, place: int, **values: np.ndarray | int) -> None:
        length = len(next(v for v in values.values() if not isinstance(v, int)))
        for name, value in values.items():
            self.flat[name][place : place + length] = value

    def _prompt(
        self,
        head: list[int],
        numbers: Sequence[int],
        asked: Sequence[tuple[list[int], list[int], float, int]],
    ) -> bool:
        """Places a prompt over some passages with its tails, targets, their labels' weights and kinds."""
        factor = int(self.rng.choice(FACTORS, p=FACTOR_SHARES))
        fixed, ids, slots = self.data.fixed, list(head), [-1] * len(head)
        for position, number in enumerate(numbers):
            if position:
                ids += fixed["between"]
                slots += [-1] * len(fixed["between"])
            places = self.slot_places[number][factor]
            ids += [0] * len(places)
            slots += places
        length = len(ids)
        segments, positions, labels = [0] * length, list(range(length)), []
        for segment, (tail, target, weight, kind) in enumerate(asked, start=1):
            size = len(tail) + len(target)
            if len(ids) + size > self.shape.width:
                break
            labels += [(len(ids) + len(tail) + i, token, weight, kind) for i, token in enumerate(target)]
            ids += tail + target
            segments += [segment] * size
            positions += range(length, length + size)
        if not labels or self.used["labels"] + len(labels) > self.shape.labels:
            return False
        place = self.racks[""].place(len(ids))
        if place is None:
            return False
        slots += [-1] * (len(ids) - len(slots))
        values = {"ids": ids, "segments": segments, "places": positions, "slots": slots}
        self._fill(place, **{k: np.array(v) for k, v in values.items()}, prompts=self.used["prompts"])
        self._label([(place + at - 1, token, weight, kind) for at, token, weight, kind in labels])
        self.used["prompts"] += 1
        return True

    def _label(self, labels: list[tuple[int, int, float, int]]) -> None:
        """Takes labels: the flat place whose state foretells each, its token, weight and kind."""
        begin = self.used["labels"]
        columns = ("label_places", "labels", "label_weights", "label_kinds")
        for name, values in zip(columns, zip(*labels, strict=True), strict=True):
            self.out[name][begin : begin + len(labels)] = values
        self.used["labels"] += len(labels)

    def _asked(self, question: int, answered: bool, kind: int) -> tuple[list[int], list[int], float, int]:
        data, fixed = self.data, self.data.fixed
        tail = fixed["before"] + data.row("prompts", question).tolist() + fixed["after"]
        target = data.row("answers", question).tolist() if answered else fixed["missing"]
        return tail, target, 1.0, kind

    def _single_prompt(self, number: int) -> None:
        """One passage: its questions, perhaps one that it does not answer; seldom a copy of it."""
        data, rng = self.data, self.rng
        own = rng.permutation(data.row("own", number))[:QUESTIONS].tolist()
        asked = [self._asked(question, True, 0) for question in own]
        foreign = data.row("foreign", number)
        if len(foreign) and rng.random() < FOREIGN_SHARE:
            place = int(rng.integers(len(asked) + 1))
            asked.insert(place, self._asked(int(rng.choice(foreign)), False, 2))
        if asked:
            self._prompt(data.fixed["head"], [number], asked)
        said = data.row("paraphrases", number)
        if len(said):
            target = [(data.fixed["say_tail"], said.tolist(), COPY_WEIGHT, 3)]
            self._prompt(data.fixed["say_head"], [number], target)
        elif rng.random() < COPY_SHARE:
            target = data.row("passages", number)[:COPY_TOKENS].tolist()
            self._prompt(
                data.fixed["copy_head"], [number], [(data.fixed["copy_tail"], target, COPY_WEIGHT, 3)]
            )

    def _shared_prompt(self, asked: int | None, numbers: list[int], learnt: set[int]) -> None:
        """Several passages: questions that name their subject, perhaps one that none of them answers."""
        data, rng = self.data, self.rng
        strangers = [n for n in self.documents if n not in numbers]
        gold = set() if asked is None else set(data.row("gold", asked).tolist())
        if gold - set(numbers):
            asked = None
        count = int(rng.integers(min(max(2, len(gold)), READ), READ + 1))
        others = [n for n in rng.permutation(numbers).tolist() if n not in gold]
        others += rng.permutation(strangers).tolist()[:READ] if len(strangers) else []
        read = [*(gold & set(numbers)), *others][:count]
        read = rng.permutation(read).tolist()
        own = [
            question
            for number in read
            if number in learnt
            for question in rng.permutation(data.row("own", number)).tolist()[:3]
            if data.findable(question) and question != asked
        ]
        own = rng.permutation(own).astype(int).tolist()[: SHARED_QUESTIONS - (asked is not None)]
        own = ([asked] if asked is not None else []) + own
        prompts = [self._asked(question, True, 1) for question in own]
        foreign = [
            question
            for number in read
            for question in data.row("foreign", number).tolist()
            if not set(data.row("gold", question).tolist()) & set(read)
        ]
        if foreign and rng.random() < SHARED_FOREIGN_SHARE:
            prompts.insert(
                int(rng.integers(len(prompts) + 1)), self._asked(int(rng.choice(foreign)), False, 2)
            )
        if prompts:
            self._prompt(data.fixed["head"], read, prompts)

    def _searches(self, asked: list[int], learnt: list[int]) -> None:
        """Questions to search with, their gold passages and those that the teacher ranks first."""
        data, rng, shape = self.data, self.rng, self.shape
        own = [q for number in learnt for q in data.row("own", number).tolist() if data.findable(q)]
        asked = [q for q in asked if self._learnt(data.row("gold", q).tolist())]
        for question in [*asked, *rng.permutation(own).astype(int).tolist()]:
            index, ids = self.used["asked"], data.row("plain", question)
            if index == shape.questions or not len(ids):
                continue
            place = self.racks["ask"].place(len(ids))
            if place is None:
                return
            self._fill(place, ask_ids=ids, ask_texts=index, ask_places=np.arange(len(ids)))
            sizes = np.minimum(RATE, len(ids) - np.arange(len(ids)) // RATE * RATE)
            self.flat["ask_weights"][place : place + len(ids)] = 1 / sizes
            self._target(index, question)
            self.used["asked"] += 1

    def _target(self, index: int, question: int) -> None:
        data = self.data
        row = int(np.searchsorted(data.asked, question))
        gold = data.row("gold", question)[: self.shape.targets - data.ranked.shape[1]]
        scores = data.scores[row].astype(np.float32) / TEACHER_TEMPERATURE
        shares = np.exp(scores - scores.max())
        shares *= (1 - GOLD_SHARE) / shares.sum()
        numbers = np.concatenate([gold, data.ranked[row]])
        weights = np.concatenate([np.full(len(gold), GOLD_SHARE / len(gold)), shares])
        self.out["targets"][index, : len(numbers)] = numbers
        self.out["target_weights"][index, : len(numbers)] = weights
        self.out["asked"][index] = 1.0


def _filled(shape: tuple[int, ...], **values: int) -> dict[str, np.ndarray]:
    return {name: np.full(shape, value, np.int64) for name, value in values.items()}


class Batches(IterableDataset):
    """Batches without end; each worker draws its own."""

    def __init__(self, data: Data, shape: Shape, seed: int, validation: bool = False) -> None:
        self.data, self.shape, self.seed, self.validation = data, shape, seed, validation

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        worker = get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        while True:
            yield Builder(self.data, self.shape, rng, self.validation).build()


def packed_passages(data: Data, rows: int, width: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """All passages in packed rows, with their numbers: ids, texts, places, weights of a mean memory."""
    ends = data.arrays["passages_ends"].astype(np.int64)
    lengths = np.diff(ends)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    starts = [0]  # where in this order each row begins; a row's passages have the room of its first
    while starts[-1] < len(order):
        starts.append(starts[-1] + width // max(int(lengths[order[starts[-1]]]), SHORTEST))
    firsts = np.array(starts)
    for begin in range(0, len(starts) - 1, rows):
        numbers = order[firsts[begin] : firsts[min(begin + rows, len(starts) - 1)]]
        index = firsts[begin] + np.arange(len(numbers))
        row = np.searchsorted(firsts, index, side="right") - 1
        room = np.maximum(lengths[order[firsts[row]]], SHORTEST)
        place = (row - begin) * width + (index - firsts[row]) * room
        size = lengths[numbers]
        text, inside = np.repeat(np.arange(len(numbers)), size), np.concatenate([np.arange(n) for n in size])
        out = _filled((rows, width), ids=0, texts=-1, places=0)
        out["weights"] = np.zeros((rows, width), np.float32)
        at = place[text] + inside
        found = {
            "ids": data.arrays["passages"][ends[numbers][text] + inside],
            "texts": text,
            "places": inside,
        }
        found["weights"] = 1 / np.minimum(RATE, size[text] - inside // RATE * RATE)
        for name, value in found.items():
            out[name].reshape(-1)[at] = value
        yield {name: torch.from_numpy(value) for name, value in out.items()}, torch.from_numpy(numbers)
