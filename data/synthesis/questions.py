"""Questions that documents are found for: pools of candidates, and a teacher's answers (distillation)."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from datatrove.data import Document

from ..readers import Source, read_rows
from ..records import QuestionRecord
from ..rows import to_pretraining, to_questions
from . import prompts
from .retrievers import Retriever
from .structured import BadReplyError, ask
from .teacher import Teacher
from .texts import contains_run, holds_answer, normalized, words

BATCH = 256


@dataclass(frozen=True)
class SeedQuestion:
    """A question that documents are to be found for."""

    question: str
    answers: tuple[str, ...] = ()  # accepted (gold) answers, or none
    positives: tuple[str, ...] = ()  # texts of documents known to hold the answer, or none
    id: str | None = None  # its name, if it has one

    def known(self, documents: Sequence[str]) -> tuple[int, ...]:
        """The indices of the documents that are known positives, whatever their marks and capitals."""
        positives = {normalized(text) for text in self.positives}
        return tuple(i for i, text in enumerate(documents) if normalized(text) in positives)


def read_seeds(source: Source) -> Iterator[SeedQuestion]:
    """Reads questions from rows of any kind (see `clara.data.readers`).

    Question rows give their question, gold answers and positive documents. Pretraining rows, such as a
    finished synthesis' own, give all their questions, with the document as the positive. Rows with a
    question alone are bare questions; one without any is a ValueError that names file and line.
    """
    for place, row in read_rows(source):
        try:
            yield from _seeds(row)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


def _seeds(row: dict) -> Iterator[SeedQuestion]:
    if row.get("data_type") == "paraphrase":
        return
    if isinstance(row.get("question"), list):
        record = to_pretraining(row)
        for number, (question, answers) in enumerate(zip(record.questions, record.answers, strict=True)):
            name = f"{record.id}-{number}" if record.id else None
            yield SeedQuestion(question, answers, (record.document,), name)
    elif "docs" in row or "qa" in row:
        for record in to_questions(row):
            positives = tuple(record.documents[i] for i in record.positives)
            yield SeedQuestion(record.question, record.answers, positives, record.id)
    else:
        yield _bare(row)


def _bare(row: dict) -> SeedQuestion:
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"`question` must be a text, got {question!r}.")
    gold = row.get("golden_answers") or row.get("answers") or row.get("answer") or []
    answers = (gold,) if isinstance(gold, str) else tuple(gold)
    return SeedQuestion(question, answers, id=None if row.get("id") is None else str(row["id"]))


def retrieved(
    seeds: Iterable[SeedQuestion], retriever: Retriever, k: int
) -> Iterator[tuple[SeedQuestion, list[str]]]:
    """Yields each seed with its `k` best documents, searching for many questions at once."""
    seeds = iter(seeds)
    while batch := list(islice(seeds, BATCH)):
        yield from zip(batch, retriever.search([seed.question for seed in batch], k), strict=True)


def build_pools(
    seeds: Iterable[SeedQuestion],
    retriever: Retriever,
    size: int = 20,
    force_positives: bool = True,
    seed: int = 0,
    without_answers: bool = False,
) -> Iterator[QuestionRecord]:
    """Builds one row a question with a pool of candidates (the paper: 20).

    Args:
        seeds: questions with gold answers.
        retriever: finds the candidates.
        size: documents in each pool, N.
        force_positives: whether known positives always belong to the pool (the paper's oracle setting);
            without, the pool is what the retriever found (its normal setting), and positives are marked
            where they occur.
        seed: seed of the pool's order, when positives are forced; as retrieved, the best candidate comes
            first.
        without_answers: whether candidates that contain an answer, but are no known positives, are left out,
            since they may be positives that nobody marked.

    Returns:
        An iterator of rows whose documents are all different.

    Raises:
        ValueError: if a question has no answer, more positives than `size`, or the corpus is smaller than
            `size`.
    """
    if size < 1:
        raise ValueError(f"`size` must be at least 1, got {size}.")
    order = random.Random(seed)
    for asked, found in retrieved(seeds, retriever, 3 * size):
        if not asked.answers:
            raise ValueError(
                f"no answers for the question {asked.question!r}: end-to-end rows need a gold answer."
            )
        if without_answers:
            known = {found[place] for place in asked.known(found)}
            found = [text for text in found if text in known or not holds_answer(text, asked.answers)]
        pool = _pool(asked.positives if force_positives else (), found, size)
        if len(pool) < size:
            raise ValueError(
                f"only {len(pool)} different documents for {asked.question!r}, but `size` is {size}: "
                "give a larger corpus or a smaller `size`."
            )
        if force_positives:
            order.shuffle(pool)
        yield QuestionRecord(asked.question, asked.answers, tuple(pool), asked.known(pool), id=asked.id)


def _pool(positives: Sequence[str], found: Sequence[str], size: int) -> list[str]:
    """Returns the positives and then the best candidates, each text once."""
    if len(positives) > size:
        raise ValueError(f"{len(positives)} positives do not fit into a pool of `size` {size}.")
    different: dict[str, str] = {}
    for text in (*positives, *found):
        different.setdefault(normalized(text), text)
    return list(different.values())[:size]


ANSWER_TOKENS = 256


def distillation_items(seeds: Iterable[SeedQuestion], retriever: Retriever, k: int = 5) -> Iterator[Document]:
    """Yields one item a question, with its `k` best documents (the paper: 5)."""
    for number, (seed, documents) in enumerate(retrieved(seeds, retriever, k)):
        extra = {"documents": documents, "answers": list(seed.answers), "positives": list(seed.positives)}
        yield Document(text=seed.question, id=seed.id or str(number), metadata=extra)


async def distil(item: Document, teacher: Teacher) -> tuple[dict[str, Any], bool]:
    """Lets the teacher answer one question from its documents.

    The answer is kept where there is no gold answer, or where it agrees with one: one holds the other, word
    by word.

    Returns:
        The question with the teacher's answer, or with the reason for leaving it out; whether it is kept.
    """
    row = {"id": item.id, "question": item.text, **item.metadata, "generated": "", "reason": ""}
    try:
        documents = prompts.tagged(*item.metadata["documents"])
        prompt = prompts.DISTIL.format(documents=documents, question=item.text)
        reply = await ask(teacher, prompt, prompts.Answer, ANSWER_TOKENS)
    except BadReplyError as error:
        return {**row, "reason": error.reason}, False
    row["generated"] = reply.answer.strip()
    if not reply.answerable or not row["generated"]:
        row["reason"] = "unanswerable"
    elif row["answers"] and not agrees(row["generated"], row["answers"]):
        row["reason"] = "disagrees_with_gold"
    return row, not row["reason"]


def agrees(answer: str, gold: Iterable[str]) -> bool:
    """Whether an answer holds a gold answer as a run of words, or the other way round."""
    mine = words(answer)
    others = (found for text in gold if (found := words(text)))
    return bool(mine) and any(contains_run(other, mine) or contains_run(mine, other) for other in others)


def distilled_record(row: dict[str, Any]) -> QuestionRecord:
    """Returns a kept row as a record; the teacher's answer stands in where there is no gold one."""
    seed = SeedQuestion(row["question"], tuple(row["answers"]), tuple(row["positives"]))
    documents, gold = tuple(row["documents"]), seed.answers or (row["generated"],)
    return QuestionRecord(seed.question, gold, documents, seed.known(documents), row["generated"], row["id"])
