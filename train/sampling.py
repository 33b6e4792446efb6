"""The order of rows: similar lengths in a batch, a function of seed and epoch alone, so resumable."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..data.collation import RecordDataset


def draw(rows: Sequence[Any], count: int | None, seed: int = 0) -> list[Any]:
    """At most `count` of the rows (None: all), drawn without replacement, in the order of the rows."""
    kept = len(rows) if count is None else min(count, len(rows))
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), kept))]


def order_seed(args: TrainingArguments) -> int:
    """The seed of the order of rows: `data_seed`, or `seed` where there is none."""
    return args.seed if args.data_seed is None else args.data_seed


class EpochSampler(Sampler[int]):
    """Draws the key of every row once an epoch.

    Args:
        dataset: The rows.
        batch_size: Rows of one optimizer step, which share a bucket of lengths.
        bucket_by_length: Group similar lengths; otherwise a plain permutation.
        seed: Seed of the order.
    """

    def __init__(self, dataset: RecordDataset, batch_size: int, bucket_by_length: bool, seed: int) -> None:
        self.lengths = dataset.lengths()
        self.batch_size = batch_size
        self.bucket_by_length = bucket_by_length
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * len(self.lengths)
        return iter([first + index for index in self._order()])

    def _order(self) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if not self.bucket_by_length:
            return torch.randperm(len(self.lengths), generator=generator).tolist()
        order = get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        head, last = batches[:-1], batches[-1]
        shuffled = [head[i] for i in torch.randperm(len(head), generator=generator).tolist()]
        return [index for batch in [*shuffled, last] for index in batch]


class EpochCallback(TrainerCallback):
    """Tells the sampler its epoch, also after a resume, when accelerate's wrappers hide the sampler."""

    def __init__(self) -> None:
        self.sampler: EpochSampler | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Called before the rows of an epoch are drawn; `state.epoch` is a fraction after a resume."""
        if self.sampler is not None:
            self.sampler.set_epoch(int(state.epoch or 0))
