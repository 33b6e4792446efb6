"""Candidate pools for stage end_to_end: from any retriever, with the known positives forced in or not."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from ..records import QuestionRecord
from .retrievers import Retriever
from .seeds import SeedQuestion
from .texts import holds_answer, normalized

BATCH = 256


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
    found = retrieved(iter(seeds), retriever, 3 * size)
    if without_answers:
        found = ((seed, _wrong(seed, texts)) for seed, texts in found)
    return _pools(found, size, force_positives, random.Random(seed))


def _wrong(seed: SeedQuestion, texts: list[str]) -> list[str]:
    """Texts without an answer, and known positives."""
    known = {normalized(text) for text in seed.positives}
    return [text for text in texts if normalized(text) in known or not holds_answer(text, seed.answers)]


def retrieved(
    seeds: Iterator[SeedQuestion], retriever: Retriever, k: int
) -> Iterator[tuple[SeedQuestion, list[str]]]:
    """Yields each seed with its `k` best documents, searching for many questions at once."""
    while batch := list(islice(seeds, BATCH)):
        yield from zip(batch, retriever.search([seed.question for seed in batch], k), strict=True)


def _pools(
    questions: Iterator[tuple[SeedQuestion, list[str]]], size: int, force: bool, order: random.Random
) -> Iterator[QuestionRecord]:
    for seed, found in questions:
        if not seed.answers:
            raise ValueError(
                f"no answers for the question {seed.question!r}: end-to-end rows need a gold answer."
            )
        pool = _pool(seed.positives if force else (), found, size)
        if len(pool) < size:
            raise ValueError(
                f"only {len(pool)} different documents for {seed.question!r}, but `size` is {size}: "
                "give a larger corpus or a smaller `size`."
            )
        if force:
            order.shuffle(pool)
        known = {normalized(text) for text in seed.positives}
        positives = tuple(i for i, text in enumerate(pool) if normalized(text) in known)
        yield QuestionRecord(seed.question, seed.answers, tuple(pool), positives, id=seed.id)


def _pool(positives: Sequence[str], found: Sequence[str], size: int) -> list[str]:
    """Returns the positives and then the best candidates, each text once."""
    if len(positives) > size:
        raise ValueError(f"{len(positives)} positives do not fit into a pool of `size` {size}.")
    different = {normalized(text): text for text in reversed((*positives, *found))}
    keys = dict.fromkeys(normalized(text) for text in (*positives, *found))
    return [different[key] for key in keys][:size]
