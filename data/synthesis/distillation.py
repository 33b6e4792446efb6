"""Instruction-tuning data by sequence-level distillation: a teacher answers from retrieved documents."""

from collections.abc import Iterable, Iterator
from typing import Any

from datatrove.data import Document

from ..records import QuestionRecord
from . import prompts
from .questions import SeedQuestion, retrieved
from .retrievers import Retriever
from .structured import BadReplyError, ask
from .teacher import Teacher
from .texts import contains_run, words

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
