"""Checks every row before training begins, so that a bad one does not stop a run after hours."""

from collections.abc import Iterator, Sequence
from typing import Any

from ..data.records import PretrainingRecord, QuestionRecord
from .arguments import ClaraTrainingConfig

MARGIN = 16


def check_rows(model: Any, args: ClaraTrainingConfig, records: Sequence[Any]) -> None:
    """Checks the number of documents, and the lengths of questions and answers.

    No token is shorter than a byte, so only texts of more bytes than the limit has tokens are encoded.

    Args:
        model: A model with its processor.
        args: The configuration.
        records: Rows of one kind.

    Raises:
        ValueError: Naming the first bad row, the rule and the way out.
    """
    if args.stage == "pretraining":
        _check_prompts(model.processor, 1, _pretraining_prompts(records), in_query=False)
        return
    if args.stage == "instruction_tuning":
        needed, name = args.documents_per_question, "documents_per_question"
    else:
        needed, name = model.config.retrieval_top_k, "retrieval_top_k"
    _check_documents(records, 1 if args.pool_size else needed, name)
    prompts = ((row, r.question, r.target) for row, r in enumerate(records))
    _check_prompts(model.processor, needed, prompts, in_query=args.stage == "end_to_end")


def _check_documents(records: Sequence[QuestionRecord], needed: int, name: str) -> None:
    for row, record in enumerate(records):
        if len(record.documents) < needed:
            raise ValueError(
                f"Row {row} has {len(record.documents)} documents, fewer than `{name}` = {needed}: lower it, "
                "fill the row's documents (`clara.data.synthesis.pools`), or leave the row out."
            )


def _pretraining_prompts(records: Sequence[PretrainingRecord]) -> Iterator[tuple[int, str, str]]:
    for row, record in enumerate(records):
        for question, answers in zip(record.questions, record.answers, strict=True):
            yield row, question, answers[0]


def _check_prompts(processor: Any, k: int, prompts: Iterator[tuple[int, str, str]], in_query: bool) -> None:
    slots = [[processor.num_memory_tokens] * k]
    frame = processor.encode_prompts(["?"], slots, ["."])["input_ids"].shape[-1]
    room = processor.prompt_max_length - frame - MARGIN
    longest = processor.question_max_length - MARGIN
    for row, question, answer in prompts:
        query = len(question.encode())
        try:
            if query + len(answer.encode()) > room:
                processor.encode_prompts([question], slots, [answer])
            if in_query and query > longest:
                processor.encode_questions([question])
        except ValueError as error:
            raise ValueError(f"Row {row}: {error}") from error
