"""Training steps: stored memories, all signals of a row, length buckets, labelled logits alone."""

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from clara.adapters_clara import wearing
from clara.data.collation import Item, PretrainingCollator, RecordDataset
from clara.data.records import PretrainingRecord
from clara.modeling_clara import positions
from clara.retrieval_clara import Memories
from clara.train.memories import Candidates, EndToEndCollator, store_candidates
from clara.train.optimizer import MasterAdamW
from clara.train.sampling import EpochSampler
from clara.train.stages import get_stage, prepare_stage
from clara.train.throughput import StepFlops
from torch import Tensor

from .compression import widen
from .report import Comparison, Section, section
from .rows import Rows, single_signals
from .timing import growth
from .workload import Sizes

STORED, RECOMPRESSED = "stored memories", "recompressed at every step"
ALL, ONE = "all signals a row", "one signal a row"
BUCKETS, PADDED = "length buckets, padded to the longest", "any order, padded to 256"
NEEDED = {RECOMPRESSED: 10.0, ONE: 1.4, PADDED: 1.3}
COMPRESS_BATCH = 32


def bench_training(model: Any, rows: Rows, sizes: Sizes, repeats: int) -> Iterator[Section]:
    """Measures steps of `end_to_end` and `pretraining` in rounds; the model is left in the latter stage."""
    for compare in (end_to_end, signals, buckets):
        yield compare(model, rows, sizes).section(repeats, model.device)
    yield bench_logits(model, rows, sizes)


def end_to_end(model: Any, rows: Rows, sizes: Sizes) -> Comparison:
    """An end-to-end step from stored memories against one that compresses the candidates again."""
    step = Stepper(model, "end_to_end")
    candidates = store_candidates(model, rows.questions, None, COMPRESS_BATCH).to(model.device)
    collate = EndToEndCollator(model.processor, candidates, model.config.retrieval_top_k)
    groups = grouped(rows.questions, sizes.questions)

    def run(number: int, again: bool) -> float:
        batch = collate(groups[number % len(groups)])
        places = batch.pop("candidate_indices")
        found, places = recompressed(model, candidates, places) if again else (candidates, places)
        return step({**batch, **found.batch(places, model.config.num_memory_tokens)})

    batch = collate(groups[0])
    texts = texts_at(candidates, batch["candidate_indices"])
    tokens = int(model.processor.encode_documents(texts)["attention_mask"].sum())
    return Comparison(
        "end_to_end",
        f"End-to-end step: {sizes.questions} questions, {sizes.candidates} candidates each",
        {STORED: lambda number: run(number, False), RECOMPRESSED: lambda number: run(number, True)},
        NEEDED,
        {"questions": sizes.questions},
        {
            "rows": rows.source,
            "tokens of a candidate, mean": tokens / len(texts),
            "tokens that train a step": StepFlops(model).tokens(batch),
            "tokens of all candidates of a step": tokens,
        },
    )


def recompressed(model: Any, candidates: Candidates, places: Tensor) -> tuple[Candidates, Tensor]:
    """The memories at (B, N) places, made again in batches of similar length, and their new places."""
    texts = texts_at(candidates, places)
    found = Candidates(*model.compress_texts(texts, COMPRESS_BATCH), {}, texts).to(model.device)
    return found, torch.arange(len(texts)).view_as(places)


def texts_at(candidates: Candidates, places: Tensor) -> list[str]:
    """The candidates at (B, N) places, row by row."""
    return [candidates.texts[place] for place in places.flatten().tolist()]


def signals(model: Any, rows: Rows, sizes: Sizes) -> Comparison:
    """A pretraining step over documents with all their signals against a row for each signal."""
    step, collate = Stepper(model, "pretraining"), collator(model)
    together = grouped(rows.rich, sizes.rows)
    apart = [split(group) for group in together]
    batches = {ALL: collate(together[0]), ONE: collate(apart[0])}
    count, tokens = len(batches[ALL]["labels"]), StepFlops(model).tokens
    return Comparison(
        "signals",
        f"Pretraining step: {sizes.rows} documents with {count} signals",
        {
            name: lambda number, groups=groups: step(collate(groups[number % len(groups)]))
            for name, groups in ((ALL, together), (ONE, apart))
        },
        NEEDED,
        {"signals": count},
        {"rows": rows.source, "tokens a step": {name: tokens(batch) for name, batch in batches.items()}},
    )


def split(items: Sequence[Item]) -> list[Item]:
    """Rows with one signal each."""
    records = [record for item in items for record in single_signals(item.record)]
    return grouped(records, len(records))[0]


def collator(model: Any) -> PretrainingCollator:
    """The trainer's collator, every question and paraphrase a target of its own."""
    return PretrainingCollator(model.processor, {"answer": 1.0, "paraphrase": 1.0}, max_answers=1_000)


def buckets(model: Any, rows: Rows, sizes: Sizes) -> Comparison:
    """Pretraining over the same rows in length buckets against any order with documents padded to 256."""
    step, collate = Stepper(model, "pretraining"), collator(model)
    batches = bucketed(rows.plain, sizes)
    items = [item for batch in batches for item in batch]
    mixed = chunks(random.Random(0).sample(items, len(items)), sizes.bucket_batch)

    def run(batches: Sequence[Sequence[Item]], width: int = 0) -> float:
        """Mean loss of the steps."""
        collated = [padded(model, collate(batch), width) for batch in batches]
        return sum(step(batch) * len(batch["labels"]) for batch in collated) / len(items)

    lengths = collate(items)["document_attention_mask"].sum(-1)
    spread = f"{int(lengths.min())} to {int(lengths.max())}, mean {float(lengths.float().mean()):.0f}"
    return Comparison(
        "buckets",
        f"Pretraining steps over {len(items)} documents, {sizes.bucket_batch} a step, "
        f"the first of an epoch of {len(rows.plain)}",
        {BUCKETS: lambda _: run(batches), PADDED: lambda _: run(mixed, sizes.padded)},
        NEEDED,
        {"documents": len(items)},
        {"rows": rows.source, "tokens of a document": spread},
    )


def bucketed(records: Sequence[PretrainingRecord], sizes: Sizes) -> list[list[Item]]:
    """The first steps of an epoch over all records, in the trainer's length buckets."""
    dataset = RecordDataset(records)
    order = EpochSampler(dataset, sizes.bucket_batch, bucket_by_length=True, seed=0)
    return chunks([dataset[key] for key in islice(order, sizes.bucket_rows)], sizes.bucket_batch)


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
        with growth(model.device) as found:
            function(batch)
        peaks[name] = found.most / 1e6
    labels = batch["labels"]
    facts = {"positions of the prompts": labels.numel(), "of these labelled": int((labels != -100).sum())}
    title = "Peak memory of a pretraining step above what is held between steps"
    return section("logits", title, facts={**facts, "peak MB": peaks})


def grouped(records: Sequence[Any], size: int) -> list[list[Item]]:
    """Items in batches of `size`."""
    return chunks([Item(index, 0, record) for index, record in enumerate(records)], size)


def chunks(items: Sequence[Any], size: int) -> list[list[Any]]:
    """Consecutive batches."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


UNREAD = ("positives", "query_texts")  # of a batch, by the model
LOW = (torch.bfloat16, torch.float16)


class Stepper:
    """Forward, backward, clipping and AdamW at a learning rate of 0: all of the work, no change.

    The model is put at the start of the stage and into training mode.
    """

    def __init__(self, model: Any, stage: str) -> None:
        prepare_stage(model, stage)
        self.model = model.train()
        self.alignment_weight = get_stage(stage).alignment_weight
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        low = any(parameter.dtype in LOW for parameter in self.parameters)
        kind = MasterAdamW if low else torch.optim.AdamW
        self.optimizer = kind(self.parameters, lr=0.0, weight_decay=0.0)

    def __call__(self, batch: Mapping[str, Any]) -> float:
        """One step over a collator's batch; returns the answers' loss."""
        inputs = {name: value for name, value in self.moved(batch).items() if name not in UNREAD}
        outputs = self.model(**inputs)
        loss = outputs.loss
        if outputs.alignment_loss is not None:
            loss = loss + self.alignment_weight * outputs.alignment_loss
        self.update(loss)
        return float(outputs.loss.detach())

    def update(self, loss: Tensor) -> None:
        """Backward and the optimizer."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def moved(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch on the model's device."""
        device = self.model.device
        return {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}

    def with_all_logits(self, batch: Mapping[str, Any]) -> float:
        """The same step with logits of every position and the base's own loss over them."""
        inputs = self.moved(batch)
        memory = self.model.compress(inputs["document_input_ids"], inputs["document_attention_mask"])
        places = inputs["document_indices"]
        rows = Memories(memory.values[places], memory.counts[places]).rows()
        embeds = self.model.fill_slots(inputs["input_ids"], rows)
        mask = inputs["attention_mask"]
        with self.model.lock, wearing(self.model.decoder, "generator"):
            loss = self.model.decoder(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=positions(mask),
                labels=inputs["labels"],
                use_cache=False,
            ).loss
        self.update(loss)
        return float(loss.detach())
