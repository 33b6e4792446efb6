"""Rows of training as arrays of token ids: small to carry, quick to make batches of.

Passages, the questions they answer, near passages and a teacher's ranking of passages for each question that
names its subject. Rows are of the released schema; those held out for validation are marked.
"""

import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...processing_clara import ClaraProcessor
from ...prompts_clara import (
    NOT_FOUND,
    answer_prompt,
    paraphrase_prompt,
    plain_ids,
    prompt_ids,
    reconstruction_prompt,
)

SINGLE = ("qa_wikipedia", "qa_other_domains", "pretraining_qa", "qa_false_contexts", "rules_single")
POOLS = ("nq", "hotpotqa", "2wiki", "retrieval_traces", "rules_two_passages")
WEIGHTS = {
    "nq": 4.0,
    "retrieval_traces": 3.0,
    "qa_wikipedia": 1.0,
    "pretraining_qa": 0.8,
    "rules_single": 0.3,
}
OTHER_WEIGHT = 0.5  # how often a passage with questions of any other source begins a group of near ones
LEFT_OUT = "MultiRC"  # a source whose licence forbids what is shipped
PASSAGE_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS = 256, 48, 24
NEAR, RANKED, FOREIGN = 8, 16, 4  # near passages of a passage, ranked ones of a question, foreign questions
HELD_OUT = 50  # every so many-th passage is kept for validation
SHORT_QUESTION = 35  # characters under which a question without a mark may not name its subject
TOKENS = ("passages", "prompts", "plain", "answers", "paraphrases", "fixed")  # arrays of token ids
UNNAMED = ("Fill", "What or whom is this")


class Question(NamedTuple):
    """A question, its answer, its gold passages, whether it can be asked without them at hand, its source."""

    text: str
    answer: str
    gold: tuple[int, ...]
    findable: bool
    source: str


class Rows:
    """Passages, questions and pools as they are read."""

    def __init__(self) -> None:
        self.passages: dict[str, int] = {}
        self.questions: list[Question] = []
        self.pools: list[tuple[int, list[int]]] = []
        self.paraphrases: dict[int, str] = {}

    def passage(self, text: str) -> int:
        """The number of a passage, a new one where it was not met before."""
        return self.passages.setdefault(text, len(self.passages))

    def read(self, folder: Path) -> "Rows":
        """Every file that is there."""
        for name in SINGLE[:-1]:
            self._singles(folder, name)
        for name in POOLS:
            self._pools(folder, name)
        self._singles(folder, SINGLE[-1])
        for row in lines(folder / "pretraining_paraphrase.jsonl"):
            self.paraphrases[self.passage(row["docs"][0])] = row["answers"][0]
        for row in lines(folder / "corpus.jsonl"):
            self.passage(row["text"])
        return self

    def _singles(self, folder: Path, name: str) -> None:
        for row in lines(folder / f"{name}.jsonl"):
            place = self.passage(row["docs"][0])
            marks = row.get("findable") or [None] * len(row["question"])
            false = name == "qa_false_contexts" or "wap" in str(row.get("source", ""))
            for text, answer, mark in zip(row["question"], row["answers"], marks, strict=True):
                named = bool(mark) if mark is not None else _named(text)
                self.questions.append(Question(text, _first(answer), (place,), named and not false, name))

    def _pools(self, folder: Path, name: str) -> None:
        for row in lines(folder / f"{name}.jsonl"):
            if not row["pos_index"]:
                continue
            places = [self.passage(text) for text in row["docs"]]
            gold = tuple(places[place] for place in row["pos_index"])
            answer = _first(row.get("answer") or row["golden_answers"])
            self.pools.append((len(self.questions), places))
            self.questions.append(Question(row["question"], answer, gold, True, name))
            if name in ("nq", "retrieval_traces"):
                own = [place for place in row["pos_index"] if holds(row["docs"][place], answer)]
                if own:
                    self.questions.append(Question(row["question"], answer, (places[own[0]],), True, name))


def lines(file: Path) -> Iterator[dict]:
    """The rows of a JSONL file, without those of a source that is left out; none where there is no file."""
    if file.exists():
        with file.open(encoding="utf-8") as opened:
            for line in opened:
                row = json.loads(line)
                if LEFT_OUT not in str(row.get("source", "")):
                    yield row


def holds(text: str, answer: str) -> bool:
    """Whether an answer's words stand side by side in a text; those that name nothing (yes, no) never do."""
    words = folded(answer)
    return bool(words) and words not in ("yes", "no") and f" {words} " in f" {folded(text)} "


def folded(text: str) -> str:
    """The words of a text in lower case, without punctuation."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _first(answers: Any) -> str:
    return answers if isinstance(answers, str) else answers[0]


def _named(text: str) -> bool:
    return len(text) > SHORT_QUESTION and not text.startswith(UNNAMED)


def ragged(rows: Iterable[Sequence[int]], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows of numbers in one array, and where each begins."""
    rows = list(rows)
    ends = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int32)
    return np.fromiter((value for row in rows for value in row), dtype, int(ends[-1])), ends


def near(vectors: np.ndarray, queries: np.ndarray, count: int, block: int = 1024) -> tuple[np.ndarray, ...]:
    """(Q, count) places of the nearest unit vectors and their cosines, best first."""
    vectors = vectors.astype(np.float32).T
    places, scores = [], []
    for start in range(0, len(queries), block):
        found = queries[start : start + block].astype(np.float32) @ vectors
        best = np.argpartition(-found, count, axis=1)[:, :count]
        values = np.take_along_axis(found, best, 1)
        order = np.argsort(-values, axis=1)
        places.append(np.take_along_axis(best, order, 1).astype(np.int32))
        scores.append(np.take_along_axis(values, order, 1).astype(np.float16))
    return np.concatenate(places), np.concatenate(scores)


def arrays(rows: Rows, processor: ClaraProcessor, embed: Any) -> dict[str, np.ndarray]:
    """Everything a training needs, by name; token ids are those of `processor`'s tokenizer.

    `embed` gives unit vectors (N, D) of texts, the teacher's.
    """
    tokens, texts = _passages(processor, list(rows.passages))
    questions = [q if _fits(q, texts) else None for q in rows.questions]
    prompts, plain, answers = _question_ids(processor, questions)
    kept = [i for i in range(len(questions)) if prompts[i] and answers[i]]
    found = {i for i in kept if questions[i].findable}
    vectors = embed(list(rows.passages))
    asked = sorted(found)
    ranked, scores = near(vectors, embed([questions[i].text for i in asked]), RANKED)
    others = enumerate(near(vectors, vectors, NEAR + 1)[0])
    neighbours = np.stack([row[row != place][:NEAR] for place, row in others])
    own, pooled = defaultdict(list), {i for i, _ in rows.pools}
    for i in kept:
        if len(questions[i].gold) == 1 and i not in pooled:
            own[questions[i].gold[0]].append(i)
    foreign = _foreign(texts, neighbours, own, questions, found)
    held = np.array([zlib.crc32(text.encode()) % HELD_OUT == 0 for text in texts])
    named = {
        "passages": tokens,
        "prompts": prompts,
        "plain": [plain[i] if i in found else [] for i in range(len(plain))],
        "answers": answers,
        "gold": [q.gold if q else () for q in questions],
        "own": [own.get(place, []) for place in range(len(texts))],
        "foreign": [foreign.get(place, []) for place in range(len(texts))],
        "pools": [places for i, places in rows.pools if prompts[i] and answers[i]],
        "paraphrases": _ends(processor, [rows.paraphrases.get(p, "") for p in range(len(texts))], 96),
        "fixed": _fixed(processor),
    }
    out = {}
    for name, value in named.items():
        out[name], out[f"{name}_ends"] = ragged(value, np.uint16 if name in TOKENS else np.int32)
    out["pool_questions"] = np.array([i for i, _ in rows.pools if prompts[i] and answers[i]], np.int32)
    out |= {"near": neighbours.astype(np.int32), "asked": np.array(asked, np.int32)}
    out |= {"ranked": ranked, "scores": scores, "held_out": held}
    return out | {"weights": _weights(named["own"], questions)}


def _weights(own: list[list[int]], questions: list[Question | None]) -> np.ndarray:
    """How often each passage begins a group: as often as the source of its best question asks."""
    kinds = [[WEIGHTS.get(questions[i].source, OTHER_WEIGHT) for i in row] for row in own]
    return np.array([max(row, default=0.0) for row in kinds], np.float32)


def _passages(processor: ClaraProcessor, texts: list[str]) -> tuple[list[list[int]], list[str]]:
    """Ids of the passages, cut where they are too long, and the texts so cut."""
    ids = [row[:PASSAGE_TOKENS] for row in plain_ids(processor.tokenizer, texts)]
    short = [
        text if len(row) < PASSAGE_TOKENS else processor.tokenizer.decode(row)
        for text, row in zip(texts, ids, strict=True)
    ]
    return ids, short


def _fits(question: Question, texts: list[str]) -> bool:
    """Whether the answer of a question to one passage was not cut away with the end of it."""
    if len(question.gold) != 1 or len(texts[question.gold[0]]) < 700:
        return True
    text = texts[question.gold[0]]
    return holds(text, question.answer) or folded(question.answer) in ("yes", "no", "true", "false")


def _question_ids(processor: ClaraProcessor, questions: list[Question | None]) -> tuple[list[list[int]], ...]:
    """Of each question its ids in a prompt, alone, and those of its answer; nothing where it is left out."""
    tokenizer = processor.tokenizer
    first, last = _frame(processor)
    texts = [question.text.strip() if question else "x" for question in questions]
    _, tail = prompt_ids(processor, answer_prompt(), [1], "x")
    whole = tokenizer.decode(tail).split("x")
    framed = tokenizer([whole[0] + text + whole[1] for text in texts], add_special_tokens=False)["input_ids"]
    prompts = []
    for question, row in zip(questions, framed, strict=True):
        right = row[: len(first)] == first and row[-len(last) :] == last
        inner = row[len(first) : -len(last)]
        prompts.append(inner if question and right and len(inner) <= QUESTION_TOKENS else [])
    answers = _ends(processor, [q.answer if q else "" for q in questions], ANSWER_TOKENS, whole=True)
    return prompts, plain_ids(tokenizer, texts), answers


def _frame(processor: ClaraProcessor) -> tuple[list[int], list[int]]:
    """Ids that stand before and after every question in a prompt."""
    (_, one), (_, two) = (prompt_ids(processor, answer_prompt(), [1], text) for text in ("x", "7 y"))
    first = next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    last = next(i for i, (a, b) in enumerate(zip(one[::-1], two[::-1], strict=False)) if a != b)
    return one[:first], one[len(one) - last :]


def _ends(processor: ClaraProcessor, texts: list[str], longest: int, whole: bool = False) -> list[list[int]]:
    """Ids of targets with the end-of-text token; too long ones are cut, or left out if they must be whole."""
    ids = plain_ids(processor.tokenizer, [text.strip() or "x" for text in texts])
    end = processor.tokenizer.eos_token_id
    found = []
    for text, row in zip(texts, ids, strict=True):
        long = len(row) > longest
        found.append([] if not text.strip() or (whole and long) else row[:longest] + ([] if long else [end]))
    return found


def _foreign(
    texts: list[str], neighbours: np.ndarray, own: dict, questions: list, found: set[int]
) -> dict[int, list[int]]:
    """For each passage with questions, questions of near passages that it does not answer."""
    result = {}
    for place in own:
        asked = [i for other in neighbours[place] for i in own.get(int(other), [])[:6] if i in found]
        result[place] = [i for i in asked if not holds(texts[place], questions[i].answer)][:FOREIGN]
    return result


def _fixed(processor: ClaraProcessor) -> list[list[int]]:
    """Ids that never change, in the order of `FIXED`."""
    heads, tails = [], []
    for prompt in (answer_prompt(), reconstruction_prompt(), paraphrase_prompt()):
        head, tail = prompt_ids(processor, prompt, [1, 1], "x")
        heads.append([token for token in head if token >= 0])
        tails.append(tail)
    between = heads[0][-1:]
    first, last = _frame(processor)
    missing = _ends(processor, [NOT_FOUND], ANSWER_TOKENS)[0]
    return [heads[0][:-1], first, last, heads[1][:-1], tails[1], heads[2][:-1], tails[2], between, missing]
