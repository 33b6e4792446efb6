"""Generation: questions answered in one batch, against one at a time."""

from collections.abc import Callable, Sequence
from typing import Any

from clara.memory_clara import CorpusMemory

from .report import Section, line
from .sizes import Sizes
from .timing import WALL, measure, ratio
from .workload import sample_documents, sample_questions

NEEDED = 3.0


def bench_generation(model: Any, sizes: Sizes, repeats: int) -> Section:
    """Times a batch of questions against single ones; every answer has the same number of new tokens.

    Args:
        model: A CLaRa model with its processor.
        sizes: How much.
        repeats: Rounds.
    """
    texts = sample_documents(model.processor.tokenizer, sizes.answers, sizes.document_tokens)
    memory = model.build_memory(texts, batch_size=sizes.batch_size, show_progress=False)
    questions = [question for question, _, _ in sample_questions()][: sizes.answers]
    runs = generation_runs(model, memory, questions, sizes)
    seconds = {name: marks[WALL] for name, marks in measure(runs, repeats, model.device).items()}
    batch, single = seconds
    counts = {batch: len(questions), single: sizes.alone}
    tokens = {name: count * sizes.answer_tokens for name, count in counts.items()}
    name = "tokens a second: one batch against one at a time"
    return Section(
        "generation",
        f"Answering from 5 memories, {sizes.answer_tokens} new tokens a question",
        [line(key, seconds[key], {"tokens": tokens[key]}) for key in seconds],
        [ratio(name, seconds[single], seconds[batch], NEEDED, counts[single] / counts[batch])],
    )


def generation_runs(
    model: Any, memory: CorpusMemory, questions: Sequence[str], sizes: Sizes
) -> dict[str, Callable[[int], None]]:
    """All questions in one batch, and some of them one at a time (other ones in every round)."""

    def answer(asked: Sequence[str]) -> list[str]:
        count = sizes.answer_tokens
        return model.generate(list(asked), memory, 5, max_new_tokens=count, min_new_tokens=count)

    def batch(_: int) -> None:
        answer(questions)

    def alone(number: int) -> None:
        for step in range(sizes.alone):
            answer([questions[(number * sizes.alone + step) % len(questions)]])

    return {f"{len(questions)} at once": batch, "one at a time": alone}
