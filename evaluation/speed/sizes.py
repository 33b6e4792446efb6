"""How much each benchmark does: enough to measure on two CPU cores in minutes, more on an accelerator."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sizes:
    """Amounts of work; see the benchmarks.

    Attributes:
        passages: Passages compressed in a round.
        batch_size: Passages of one pass.
        passage_tokens: Shortest and longest passage.
        padded: Length that the alternative pads to.
        store: Documents in the store that is searched.
        document_tokens: Length of these documents.
        documents: Numbers of documents given to the generator.
        new_tokens: Tokens generated after the first.
        answers: Questions of one batch in generation.
        answer_tokens: Tokens of each of these answers.
        alone: How many of them are answered one at a time in a round.
        searched: Sizes of the corpora in the search benchmark.
        candidates: Pool of a question in end-to-end training.
        questions: Questions of an end-to-end step.
        rows: Documents of a pretraining step.
        signals: Signals of each of these documents.
        bucket_rows: Documents of the comparison of length buckets.
        bucket_batch: Documents of one of its steps.
    """

    passages: int = 32
    batch_size: int = 16
    passage_tokens: tuple[int, int] = (120, 200)
    padded: int = 256
    store: int = 40
    document_tokens: int = 200
    documents: tuple[int, ...] = (1, 5, 20)
    new_tokens: int = 32
    answers: int = 16
    answer_tokens: int = 64
    alone: int = 2
    searched: tuple[int, ...] = (1_000, 10_000)
    candidates: int = 20
    questions: int = 4
    rows: int = 4
    signals: int = 6
    bucket_rows: int = 32
    bucket_batch: int = 4


def sizes_for(device: torch.device) -> Sizes:
    """The amounts for a device."""
    if device.type == "cpu":
        return Sizes()
    return Sizes(
        passages=96, batch_size=32, alone=4, searched=(10_000, 100_000), questions=8, rows=8, bucket_rows=64
    )
