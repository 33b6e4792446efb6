"""Which questions an index is learnt from, and which it is tested with.

Sentences of the corpus, read by the query reasoner, stand for questions that nobody has asked yet.
"""

from collections.abc import Sequence
from typing import Any

import torch

from .documents_clara import check_texts
from .sketch_clara import sample_rows
from .splitting_clara import sentences

STAND_INS = 1024
STAND_INS_PER_TEST = 8
FEWEST_QUESTIONS, MOST_TESTS = 4, 512


def learned_and_tests(
    memory: Any, questions: Sequence[str] | None = None, seed: int = 0
) -> tuple[list[str], list[str]]:
    """Texts to learn from and texts for tests; see [`BuildingMixin.index_questions`].

    Raises:
        ValueError: If there are fewer than 4 questions, or one is empty.
    """
    stand_ins = corpus_sentences(memory, STAND_INS, seed)
    if questions is None and len(stand_ins) <= STAND_INS_PER_TEST:
        return stand_ins, stand_ins if len(stand_ins) > 1 else 2 * stand_ins
    if questions is None:
        learned = [text for row, text in enumerate(stand_ins) if row % STAND_INS_PER_TEST]
        return learned, stand_ins[::STAND_INS_PER_TEST]
    asked = check_texts(list(questions), "questions")
    if len(asked) < FEWEST_QUESTIONS:
        raise ValueError(
            f"`questions` must be at least {FEWEST_QUESTIONS}, got {len(asked)}: give more, or None for "
            "sentences of the corpus."
        )
    tests = asked[::2][:MOST_TESTS]
    return [*stand_ins, *asked[1::2], *asked[2 * MOST_TESTS :: 2]], tests


def corpus_sentences(memory: Any, count: int, seed: int = 0) -> list[str]:
    """A sentence, drawn at random, of each of at most `count` passages drawn from a corpus memory."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for row in sample_rows(len(memory), count, generator).tolist():
        found = sentences(memory.texts[row])
        drawn.append(found[int(torch.randint(len(found), (1,), generator=generator))])
    return drawn
