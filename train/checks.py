"""Checks every row before training begins, so that a bad one does not stop a run after hours."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..data.collation import RecordDataset, Target, encode_packed
from ..data.records import PretrainingRecord, QuestionRecord
from ..prompts_clara import (
    answer_prompt,
    paraphrase_prompt,
    questions_and_answers_prompt,
    questions_and_answers_target,
    reconstruction_prompt,
)
from .arguments import ClaraTrainingConfig
from .collators import make_collator, rate_factors

MARGIN = 16


def check_rows(model: Any, args: ClaraTrainingConfig, records: Sequence[Any]) -> None:
    """Checks the number of documents, and the lengths of questions, answers and targets.

    No token is shorter than a byte, so only texts of more bytes than the limit has tokens are encoded.

    Args:
        model: A model with its processor.
        args: The configuration.
        records: Rows of one kind.

    Raises:
        ValueError: Naming the first bad row, the rule and the way out.
    """
    if args.stage == "pretraining":
        _check_targets(model.processor, args.target_max_length)
        prompts = _pretraining_prompts(records)
        _check_prompts(model.processor, 1, prompts, bool(args.contrastive_weight), in_target=True)
        if args.pack_questions:
            _check_packed(model.processor, records, args.max_answers)
        return
    if args.stage == "instruction_tuning":
        needed, name = args.documents_per_question, "documents_per_question"
    else:
        needed, name = model.config.retrieval_top_k, "retrieval_top_k"
    if args.stage == "end_to_end" and args.pool_size and args.pool_size < needed:
        raise ValueError(f"`pool_size` must be at least `{name}` = {needed}, got {args.pool_size}: raise it.")
    _check_documents(records, 1 if args.pool_size else needed, name)
    if args.stage == "end_to_end" and args.pool_size:
        _check_pools(records, args.pool_size)
    prompts = ((row, r.question, r.target) for row, r in enumerate(records))
    _check_prompts(model.processor, needed, prompts, in_query=args.stage == "end_to_end")


def _check_documents(records: Sequence[QuestionRecord], needed: int, name: str) -> None:
    for row, record in enumerate(records):
        count = len(set(record.documents))
        if count < needed:
            raise ValueError(
                f"Row {row} has {count} documents, fewer than `{name}` = {needed}: lower it, "
                "fill the row's documents (`clara.data.synthesis.questions`), or leave the row out."
            )


def _check_pools(records: Sequence[QuestionRecord], pool_size: int) -> None:
    """No pool may be smaller than a row's own documents, of which some would be left out."""
    for row, record in enumerate(records):
        unique = len(set(record.documents))
        if unique > pool_size:
            raise ValueError(
                f"Row {row} has {unique} documents, more than `pool_size` = {pool_size}, so some of its "
                f"own would be left out: give at least {unique}, or None."
            )


def _check_packed(processor: Any, records: Sequence[PretrainingRecord], most: int) -> None:
    """Encodes the longest questions of a document together where they may be too long for one prompt."""
    prompt, slots = answer_prompt(processor.prompt_style), [[processor.num_memory_tokens]]

    def encode(pairs: Sequence[tuple[str, str]]) -> int:
        target = Target(prompt, [question for question, _ in pairs], [answer for _, answer in pairs])
        return encode_packed(processor, [target], slots)["input_ids"].shape[-1]

    frame = encode([("?", ".")]) + MARGIN
    for row, record in enumerate(records):
        longest = sum(frame + len(f"{question}{answer}".encode()) for question, answer in record.pairs)
        if longest <= processor.prompt_max_length:
            continue
        try:
            encode(sorted(record.pairs, key=lambda pair: encode([pair]))[-most:])
        except ValueError as error:
            shown = min(most, len(record.pairs))
            raise ValueError(
                f"Row {row}: its {shown} longest questions do not fit one prompt ({error}) "
                "Lower `max_answers`, or leave `pack_questions` out."
            ) from error


def _check_targets(processor: Any, longest: int) -> None:
    """Checks that the longest target of pretraining fits behind each of its prompts."""
    style = processor.prompt_style
    prompts = [reconstruction_prompt(), paraphrase_prompt(style), questions_and_answers_prompt()]
    slots = [[processor.num_memory_tokens]] * len(prompts)
    frame = processor.encode_messages(prompts, slots, None, ["."] * len(prompts))["input_ids"].shape[-1]
    room = processor.prompt_max_length - frame
    if not 1 <= longest <= room:
        raise ValueError(
            f"`target_max_length` must be from 1 to {room}, got {longest}: a prompt has {frame} tokens and "
            f"`prompt_max_length` is {processor.prompt_max_length}."
        )


def _pretraining_prompts(records: Sequence[PretrainingRecord]) -> Iterator[tuple[int, str, str]]:
    for row, record in enumerate(records):
        for question, answer in record.pairs:
            yield row, question, answer


def _check_prompts(
    processor: Any, k: int, prompts: Iterable[tuple[int, str, str]], in_query: bool, in_target: bool = False
) -> None:
    """Encodes what may be too long: questions with answers, questions alone, both together as a target."""
    slots = [[processor.num_memory_tokens] * k]
    frame = processor.encode_prompts(["?"], slots, ["."])["input_ids"].shape[-1]
    room = processor.prompt_max_length - frame - MARGIN
    longest = (processor.encoder_length or processor.question_max_length) - MARGIN
    for row, question, answer in prompts:
        query = len(question.encode())
        try:
            if query + len(answer.encode()) > room:
                processor.encode_prompts([question], slots, [answer])
                if in_target:
                    pair = questions_and_answers_target([question], [answer])
                    processor.encode_messages([questions_and_answers_prompt()], slots, None, [pair])
            if in_query and query > longest:
                processor.encode_questions([question])
        except ValueError as error:
            raise ValueError(f"Row {row}: {error}") from error


def check_model(model: Any, args: ClaraTrainingConfig) -> None:
    """Checks what a run needs of the model and of the launch.

    Raises:
        ValueError: If the model has no processor or cannot make one of the `compression_rates`, or one
            process would drive several GPUs.
    """
    if model.processor is None:
        raise ValueError("`model` has no processor: load it with from_pretrained or from_base.")
    rate_factors(args, model.config)
    if args.n_gpu > 1:
        raise ValueError(
            f"One process would drive {args.n_gpu} GPUs: start one a GPU with `accelerate launch`, or make "
            "only one visible (CUDA_VISIBLE_DEVICES=0)."
        )


def row_limit(args: ClaraTrainingConfig) -> int | None:
    """Rows that a run of `max_steps` can use, at most: of a stream no more are read."""
    step = args.per_device_train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size)
    return args.max_steps * step if args.max_steps > 0 else None


def checked_collator(
    model: Any,
    args: ClaraTrainingConfig,
    datasets: Sequence[RecordDataset],
    corpus: Sequence[str] = (),
    stored: bool = True,
) -> Callable:
    """The stage's collator for rows that are checked first."""
    records = [record for rows in datasets for record in rows.records]
    check_rows(model, args, records)
    return make_collator(model, args, records, corpus, stored)


def every_dataset(train: RecordDataset | None, evaluation: Any) -> list[RecordDataset]:
    """The training dataset and those of evaluation, as far as they are there."""
    held_out = list(evaluation.values()) if hasattr(evaluation, "items") else [evaluation]
    return [rows for rows in (train, *held_out) if rows is not None]
