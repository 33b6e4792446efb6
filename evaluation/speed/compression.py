"""Compression: the body alone over length buckets, against LM head, all hidden states and padding to 256."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from clara.prompts_clara import length_buckets
from clara.retrieval_clara import Memories
from torch import Tensor, nn
from torch.nn import functional

from .report import Comparison
from .workload import Sizes, sample_passages

REFERENCE = "head, all states, padded to 256"
VARIANTS = {  # whether the head reads, all states are kept, the batch is padded
    "body alone, padded to the longest": (False, False, False),
    REFERENCE: (True, True, True),
    "with the head": (True, False, False),
    "with all states": (False, True, False),
    "padded to 256": (False, False, True),
}
NEEDED = {REFERENCE: 1.3}

Batch = tuple[Tensor, Tensor]


def compression(model: Any, sizes: Sizes) -> Comparison:
    """`model.compress` over passages against the same pass with each burden, and with all of them."""
    texts = sample_passages(model.processor.tokenizer, sizes.passages, sizes.passage_tokens)
    short = encode(model, texts, sizes.batch_size)
    wide = [widen(model, batch, sizes.padded) for batch in short]

    def run(heads: bool, states: bool, padded: bool) -> list[Memories]:
        return compress_all(model, wide if padded else short, heads, states)

    lengths = [int(row.sum()) for _, mask in short for row in mask]
    vectors = sum(sum(model.processor.memory_counts(mask)) for _, mask in short)
    each = model.config.get_text_config().hidden_size * model.dtype.itemsize
    return Comparison(
        "compression",
        f"Compressing {len(texts)} passages of {min(lengths)} to {max(lengths)} tokens, "
        f"{sizes.batch_size} a pass",
        {name: lambda _, burdens=burdens: run(*burdens) for name, burdens in VARIANTS.items()},
        NEEDED,
        {"passages": len(texts), "tokens": sum(lengths)},
        {
            "bytes a document": vectors * each / len(texts),
            "bytes of its text": sum(len(text.encode()) for text in texts) / len(texts),
        },
    )


def encode(model: Any, texts: Sequence[str], batch_size: int) -> list[Batch]:
    """Passages in length buckets as (ids, mask), each (N, L) and padded to its longest."""
    batches = []
    for rows in length_buckets(texts, batch_size):
        encoded = model.processor.encode_documents([texts[row] for row in rows]).to(model.device)
        batches.append((encoded["input_ids"], encoded["attention_mask"]))
    return batches


def widen(model: Any, batch: Batch, width: int) -> Batch:
    """A batch padded on the left to `width` tokens."""
    ids, mask = batch
    more = (max(width - ids.shape[1], 0), 0)
    filler = model.processor.tokenizer.eos_token_id
    return functional.pad(ids, more, value=filler), functional.pad(mask, more, value=0)


@torch.no_grad()
def compress_all(model: Any, batches: Sequence[Batch], heads: bool, states: bool) -> list[Memories]:
    """Memories (N, M, H) of every batch; with `heads` or `states` the pass computes more than it needs."""
    memories = []
    for ids, mask in batches:
        with burdened(model.decoder, heads, states):
            memories.append(model.compress(ids, mask))
    return memories


@contextmanager
def burdened(decoder: nn.Module, heads: bool, states: bool) -> Iterator[None]:
    """Makes the body return the hidden states of all layers, and the head read every position."""
    body = decoder.base_model
    kept: list[Any] = []

    def ask(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {**kwargs, "output_hidden_states": True}

    def read(_: nn.Module, __: tuple, output: Any) -> None:
        kept.append(output)
        kept.append(decoder.get_output_embeddings()(output.last_hidden_state))

    handles = [body.register_forward_pre_hook(ask, with_kwargs=True)] if states else []
    handles += [body.register_forward_hook(read)] if heads else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
