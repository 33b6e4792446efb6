"""The end-to-end step from stored memories, against one that compresses its candidates again."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from clara.data.collation import Item
from clara.data.records import QuestionRecord
from clara.encoding_clara import evaluating, length_buckets
from clara.train.memories import EndToEndCollator
from clara.train.throughput import StepFlops
from torch import Tensor

from .report import Section, line
from .roofline import Roof, Work, shape_of
from .rows import Rows
from .sizes import Sizes
from .steps import Stepper, grouped, times, utilisation
from .timing import ratio

STORED, RECOMPRESSED, BUCKETED = "stored memories", "recompressed", "recompressed in length buckets"
NEEDED = {RECOMPRESSED: 10.0}
COMPRESS_BATCH = 32


def bench_end_to_end(model: Any, rows: Rows, sizes: Sizes, repeats: int, roof: Roof) -> Section:
    """An end-to-end step from stored memories against one that compresses the candidates again."""
    step = Stepper(model, "end_to_end")
    records = fitted(model, rows.questions)
    collate = end_to_end_collator(model, records)
    groups = grouped(records, sizes.questions)
    seconds = times(end_to_end_runs(step, collate, groups), repeats, model)
    flops, batch = StepFlops(model), collate(groups[0])
    lengths = candidate_lengths(model, groups[0])
    memory_tokens = model.config.num_memory_tokens
    trained = Work(flops(batch), 0.0)
    again = [trained, shape_of(model).read([length + memory_tokens for length in lengths], logits=0)]
    work = {STORED: [trained], RECOMPRESSED: again, BUCKETED: again}
    units = {"questions": float(sizes.questions)}
    return Section(
        "end_to_end",
        f"End-to-end step: {sizes.questions} questions, {sizes.candidates} candidates each",
        [line(name, values, units, work[name], roof) for name, values in seconds.items()],
        [
            ratio(f"{name} at every step against {STORED}", seconds[name], seconds[STORED], NEEDED.get(name))
            for name in (RECOMPRESSED, BUCKETED)
        ],
        {
            "rows": rows.source,
            "tokens of a candidate, mean": sum(lengths) / len(lengths),
            "tokens that train a step": flops.tokens(batch),
            "tokens compressed a step": sum(lengths) + len(lengths) * memory_tokens,
            "ratio of the required operations": (trained.flops + again[1].flops) / trained.flops,
            **utilisation(model, trained.flops, seconds[STORED], roof),
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
    memory = model.build_memory(texts, batch_size=COMPRESS_BATCH, show_progress=False)
    places = {text: index for index, text in enumerate(texts)}
    return EndToEndCollator(model.processor, memory, places, model.config.retrieval_top_k)


def end_to_end_runs(
    step: Stepper, collate: EndToEndCollator, groups: Sequence[Sequence[Item]]
) -> dict[str, Callable[[int], float]]:
    """One step of each variant, from rows to updated weights."""

    def again(compress: Callable[[Any, Sequence[Item]], Tensor], number: int) -> float:
        items = groups[number % len(groups)]
        return step({**collate(items), "memory": compress(step.model, items)})

    return {
        STORED: lambda number: step(collate(groups[number % len(groups)])),
        RECOMPRESSED: lambda number: again(compress_pools, number),
        BUCKETED: lambda number: again(compress_buckets, number),
    }


@torch.no_grad()
def compress_pools(model: Any, items: Sequence[Item]) -> Tensor:
    """Memories (B, N, M, H), one pass a pool, padded to its longest document."""
    with evaluating(model):
        return torch.stack([compress_texts(model, item.record.documents) for item in items])


@torch.no_grad()
def compress_buckets(model: Any, items: Sequence[Item]) -> Tensor:
    """Memories (B, N, M, H), all pools together in batches of similar length."""
    texts = [text for item in items for text in item.record.documents]
    places, found = [], []
    with evaluating(model):
        for chosen in length_buckets(texts, COMPRESS_BATCH):
            places += chosen
            found.append(compress_texts(model, [texts[place] for place in chosen]))
    memory = torch.cat(found)[torch.tensor(places).argsort().to(model.device)]
    return memory.unflatten(0, (len(items), -1))


def compress_texts(model: Any, texts: Sequence[str]) -> Tensor:
    """Memories (N, M, H) of texts in one pass."""
    return model.compress(**model.processor.encode_documents(texts).to(model.device))
