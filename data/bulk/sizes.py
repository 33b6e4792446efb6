"""What a corpus will take on the disk in every mode, before anything is compressed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ...documents_clara import clean_text
from ...formats_clara import FORMATS, memory_bytes
from ...searchers_clara import KINDS
from ...sketch_clara import DIMENSIONS
from ..documents import read_files
from .plan import Corpus

SAMPLE = 20_000
# Bytes of a 256-number sketch in FAISS: float32; 8 bits a number and the row's number; codes before that.
IN_CELLS = DIMENSIONS + 8
SKETCHES = {
    "flat": 4 * DIMENSIONS,
    "ivf_sq8": IN_CELLS,
    "ivf_rabitq": DIMENSIONS // 8 + 8 + IN_CELLS,
    "ivf_pq": KINDS["ivf_pq"].coded // 2 + IN_CELLS,
}


class Size(NamedTuple):
    """Bytes of one mode.

    Attributes:
        mode: a format of memories, `recompute`, or a kind of sketch index.
        each: bytes of a passage, beside its text.
        total: bytes of all passages.
        texts: how many times the bytes of the texts that is.
    """

    mode: str
    each: int
    total: int
    texts: float


def count_passages(corpus: Corpus, split: Callable[[list[str]], list[list[str]]]) -> tuple[int, bool]:
    """How many passages the documents make; from 20,000 evenly spaced ones if there are more.

    Args:
        corpus: the documents.
        split: splits texts into passages.

    Returns:
        The number, and whether it is exact.
    """
    step = -(-corpus.documents // SAMPLE)
    files = [(Path(path), name) for path, name, _ in corpus.files]
    chosen = islice(read_files(files), 0, None, step)
    looked, found = 0, 0
    while batch := list(islice(chosen, 1000)):
        texts = [
            clean_text(f"{row['title']}\n{row['text']}" if row.get("title") else row["text"]) for row in batch
        ]
        found += sum(len(parts) for parts in split(texts))
        looked += len(batch)
    return round(found * corpus.documents / looked), step == 1


def sizes(passages: int, text_bytes: int, shape: Sequence[int]) -> list[Size]:
    """Bytes of every mode.

    Args:
        passages: their number.
        text_bytes: bytes of their texts, which every mode also stores (compressed by zstd).
        shape: (M, H) of a memory.
    """
    modes = {
        name: memory_bytes(name, tuple(shape)) for name in FORMATS if name != "int4" or shape[1] % 2 == 0
    }
    modes["recompute"] = 0
    modes.update({f"index {name}": size for name, size in SKETCHES.items()})
    return [Size(name, each, each * passages, each * passages / text_bytes) for name, each in modes.items()]
