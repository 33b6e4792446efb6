"""Pretraining steps: all signals of a row, length buckets, labelled logits alone."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from clara.data.collation import Item, PretrainingCollator, RecordDataset
from clara.data.records import PretrainingRecord
from clara.train.sampling import EpochSampler
from clara.train.throughput import StepFlops

from .compression import widen
from .end_to_end import bench_end_to_end
from .report import Section, line
from .rows import Rows, single_signals
from .sizes import Sizes
from .steps import Stepper, chunks, grouped, peak_bytes, times
from .timing import ratio

ALL, ONE = "all signals a row", "one signal a row"
BUCKETS, PADDED = "length buckets, padded to the longest", "any order, padded to 256"
NEEDED = {ONE: 1.4, PADDED: 1.3}


def bench_training(model: Any, rows: Rows, sizes: Sizes, repeats: int) -> Iterator[Section]:
    """Measures steps of `end_to_end` and `pretraining`; the model is left in the latter stage.

    Args:
        model: A CLaRa model with its processor.
        rows: What is trained on.
        sizes: How much.
        repeats: Rounds.
    """
    yield bench_end_to_end(model, rows, sizes, repeats)
    yield bench_signals(model, rows, sizes, repeats)
    yield bench_buckets(model, rows, sizes, repeats)
    yield bench_logits(model, rows, sizes)


def bench_signals(model: Any, rows: Rows, sizes: Sizes, repeats: int) -> Section:
    """A pretraining step over documents with all their signals against a row for each signal."""
    step = Stepper(model, "pretraining")
    collate = collator(model)
    groups = grouped(rows.rich, sizes.rows)
    seconds = times(signal_runs(step, collate, groups), repeats, model)
    flops = StepFlops(model)
    batches = {ALL: collate(groups[0]), ONE: collate(split(groups[0]))}
    units = {"signals": float(len(batches[ALL]["labels"]))}
    return Section(
        "signals",
        f"Pretraining step: {sizes.rows} documents with {len(batches[ALL]['labels'])} signals",
        [line(name, values, units) for name, values in seconds.items()],
        [ratio(f"{ONE} against {ALL}", seconds[ONE], seconds[ALL], NEEDED[ONE])],
        {
            "rows": rows.source,
            "tokens a step": {name: flops.tokens(batch) for name, batch in batches.items()},
        },
    )


def signal_runs(
    step: Stepper, collate: PretrainingCollator, groups: Sequence[Sequence[Item]]
) -> dict[str, Callable[[int], float]]:
    """One step over the same signals in both forms."""
    return {
        ALL: lambda number: step(collate(groups[number % len(groups)])),
        ONE: lambda number: step(collate(split(groups[number % len(groups)]))),
    }


def split(items: Sequence[Item]) -> list[Item]:
    """Rows with one signal each."""
    records = [record for item in items for record in single_signals(item.record)]
    return [Item(index, 0, record) for index, record in enumerate(records)]


def collator(model: Any) -> PretrainingCollator:
    """The trainer's collator, every question and paraphrase a target of its own."""
    return PretrainingCollator(model.processor, {"answer": 1.0, "paraphrase": 1.0}, max_answers=1_000)


def bench_buckets(model: Any, rows: Rows, sizes: Sizes, repeats: int) -> Section:
    """Pretraining over the same rows in length buckets against any order with documents padded to 256."""
    step = Stepper(model, "pretraining")
    collate = collator(model)
    batches = bucketed(rows.plain, sizes)
    items = [item for batch in batches for item in batch]
    seconds = times(bucket_runs(step, collate, batches, sizes), repeats, model)
    batch = collate(items)
    lengths = batch["document_attention_mask"].sum(-1)
    units = {"documents": float(len(items))}
    return Section(
        "buckets",
        f"Pretraining steps over {len(items)} documents, {sizes.bucket_batch} a step, "
        f"the first of an epoch of {len(rows.plain)}",
        [line(name, values, units) for name, values in seconds.items()],
        [ratio(f"{PADDED} against {BUCKETS}", seconds[PADDED], seconds[BUCKETS], NEEDED[PADDED])],
        {
            "rows": rows.source,
            "tokens of a document": f"{int(lengths.min())} to {int(lengths.max())}, "
            f"mean {float(lengths.float().mean()):.0f}",
        },
    )


def bucketed(records: Sequence[PretrainingRecord], sizes: Sizes) -> list[list[Item]]:
    """The first steps of an epoch over all records, in the trainer's length buckets."""
    dataset = RecordDataset(records)
    order = EpochSampler(dataset, sizes.bucket_batch, bucket_by_length=True, seed=0)
    return chunks([dataset[key] for key in islice(order, sizes.bucket_rows)], sizes.bucket_batch)


def bucket_runs(
    step: Stepper, collate: PretrainingCollator, batches: Sequence[Sequence[Item]], sizes: Sizes
) -> dict[str, Callable[[int], float]]:
    """The rows of all batches once, in steps; returns the mean loss of the steps."""
    items = [item for batch in batches for item in batch]
    mixed = chunks(random.Random(0).sample(items, len(items)), sizes.bucket_batch)

    def run(batches: Sequence[Sequence[Item]], width: int = 0) -> float:
        collated = [padded(step.model, collate(batch), width) for batch in batches]
        losses = [step(batch) * len(batch["labels"]) for batch in collated]
        return sum(losses) / len(items)

    return {BUCKETS: lambda _: run(batches), PADDED: lambda _: run(mixed, sizes.padded)}


def padded(model: Any, batch: Mapping[str, Any], width: int) -> dict[str, Any]:
    """A batch with its documents padded to `width`, where they are shorter."""
    ids, mask = widen(model, (batch["document_input_ids"], batch["document_attention_mask"]), width)
    return {**batch, "document_input_ids": ids, "document_attention_mask": mask}


def bench_logits(model: Any, rows: Rows, sizes: Sizes) -> Section:
    """Peak memory of a pretraining step with labelled logits alone against logits of every position."""
    step = Stepper(model, "pretraining")
    batch = collator(model)(grouped(rows.rich, sizes.rows)[0])
    peaks = {}
    for name, function in {"labelled logits": step, "all logits": step.with_all_logits}.items():
        function(batch)
        peaks[name] = peak_bytes(lambda function=function: function(batch), model.device)
    labels = batch["labels"]
    return Section(
        "logits",
        "Peak memory of a pretraining step above what is held between steps",
        [],
        [],
        {
            "positions of the prompts": labels.numel(),
            "of these labelled": int((labels != -100).sum()),
            "peak MB": {name: None if peak is None else peak / 1e6 for name, peak in peaks.items()},
        },
    )
