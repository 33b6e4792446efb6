"""The end-to-end step from stored memories, against one that compresses its candidates again."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from clara.adapters_clara import evaluating
from clara.data.collation import Item
from clara.data.records import QuestionRecord
from clara.train.memories import Candidates, EndToEndCollator
from clara.train.throughput import StepFlops
from torch.nn import functional

from .report import Section, line
from .rows import Rows
from .sizes import Sizes
from .steps import Stepper, grouped, times
from .timing import ratio

STORED, RECOMPRESSED, BUCKETED = "stored memories", "recompressed", "recompressed in length buckets"
NEEDED = {RECOMPRESSED: 10.0}
COMPRESS_BATCH = 32

Compress = Callable[[Any, Sequence[Item]], Candidates]


def bench_end_to_end(model: Any, rows: Rows, sizes: Sizes, repeats: int) -> Section:
    """An end-to-end step from stored memories against one that compresses the candidates again."""
    step = Stepper(model, "end_to_end")
    records = fitted(model, rows.questions)
    collate = end_to_end_collator(model, records)
    groups = grouped(records, sizes.questions)
    seconds = times(end_to_end_runs(step, collate, groups), repeats, model)
    flops, batch = StepFlops(model), collate(groups[0])
    lengths = candidate_lengths(model, groups[0])
    units = {"questions": float(sizes.questions)}
    return Section(
        "end_to_end",
        f"End-to-end step: {sizes.questions} questions, {sizes.candidates} candidates each",
        [line(name, values, units) for name, values in seconds.items()],
        [
            ratio(f"{name} at every step against {STORED}", seconds[name], seconds[STORED], NEEDED.get(name))
            for name in (RECOMPRESSED, BUCKETED)
        ],
        {
            "rows": rows.source,
            "tokens of a candidate, mean": sum(lengths) / len(lengths),
            "tokens that train a step": flops.tokens(batch),
            "tokens of all candidates of a step": sum(lengths),
        },
    )


def candidate_lengths(model: Any, items: Sequence[Item]) -> list[int]:
    """Tokens of every candidate of a batch."""
    texts = [text for item in items for text in item.record.documents]
    return model.processor.encode_documents(texts)["attention_mask"].sum(-1).tolist()


def fitted(model: Any, records: Sequence[QuestionRecord]) -> list[QuestionRecord]:
    """The records with every candidate cut to its first passage, as stored memories have it."""
    first = [
        tuple(parts[0] for parts in model.processor.split_documents(list(record.documents)))
        for record in records
    ]
    return [replace(record, documents=texts) for record, texts in zip(records, first, strict=True)]


def end_to_end_collator(model: Any, records: Sequence[QuestionRecord]) -> EndToEndCollator:
    """The trainer's collator over memories of all candidates."""
    texts = list(dict.fromkeys(text for record in records for text in record.documents))
    places = {text: index for index, text in enumerate(texts)}
    candidates = Candidates(*model.compress_texts(texts, COMPRESS_BATCH), places, texts).to(model.device)
    return EndToEndCollator(model.processor, candidates, model.config.retrieval_top_k)


def end_to_end_runs(
    step: Stepper, collate: EndToEndCollator, groups: Sequence[Sequence[Item]]
) -> dict[str, Callable[[int], float]]:
    """One step of each variant, from rows to updated weights."""
    length = step.model.config.num_memory_tokens

    def stored(number: int) -> float:
        batch = collate(groups[number % len(groups)])
        indices = batch.pop("candidate_indices")
        return step({**batch, **collate.candidates.batch(indices, length)})

    def again(compress: Compress, number: int) -> float:
        items = groups[number % len(groups)]
        batch = collate(items)
        indices = torch.arange(batch.pop("candidate_indices").numel()).view(len(items), -1)
        return step({**batch, **compress(step.model, items).batch(indices, length)})

    return {
        STORED: stored,
        RECOMPRESSED: lambda number: again(compress_pools, number),
        BUCKETED: lambda number: again(compress_buckets, number),
    }


@torch.no_grad()
def compress_pools(model: Any, items: Sequence[Item]) -> Candidates:
    """Memories of all candidates, one pass a pool, padded to its longest document."""
    rows, counts, vectors = [], [], []
    with evaluating(model):
        for item in items:
            encoded = model.processor.encode_documents(list(item.record.documents)).to(model.device)
            memories = model.compress(**encoded)
            rows.append(memories.rows())
            counts.append(memories.counts)
            vectors.append(model.search_vectors(memories))
    offsets = functional.pad(torch.cat(counts).cumsum(0), (1, 0))
    return Candidates(torch.cat(rows), offsets, torch.cat(vectors), {}, [])


def compress_buckets(model: Any, items: Sequence[Item]) -> Candidates:
    """Memories of all candidates, all pools together in batches of similar length."""
    texts = [text for item in items for text in item.record.documents]
    return Candidates(*model.compress_texts(texts, COMPRESS_BATCH), {}, texts)
