"""What a corpus will take on the disk in every format, before anything is compressed."""

from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ...processing_clara import to_passages
from ...retrieval_clara import FORMATS
from ...store.schema import Facts
from ..documents import read_files
from .plan import Corpus, widths

SAMPLE = 20_000
AT_ONCE = 1000
INDEX_BYTES = 19  # of a passage in an index, beside one bit for every number of its search vector


class Count(NamedTuple):
    """How many passages and memory vectors the documents make."""

    passages: int  # N
    vectors: int  # T
    exact: bool  # whether all documents were looked at; else an estimate from 20,000 evenly spaced ones


class Size(NamedTuple):
    """Bytes of one format of memories, of the search vectors, or of their index."""

    name: str
    each: float  # mean bytes of a passage, beside its text
    total: int  # bytes of all passages
    texts: float  # how many times the bytes of the texts that is


def count_passages(corpus: Corpus, processor: Any) -> Count:
    """Counts passages and the vectors of their memories, as the processor splits texts and counts."""
    step = -(-corpus.documents // SAMPLE)
    files = [(Path(file["path"]), file["name"]) for file in corpus.files]
    chosen = islice(read_files(files), 0, None, step)
    looked, passages, vectors = 0, 0, 0
    while batch := list(islice(chosen, AT_ONCE)):
        texts = to_passages(batch, processor.split_documents).texts
        passages += len(texts)
        vectors += sum(processor.memory_counts(processor.encode_documents(texts)["attention_mask"]))
        looked += len(batch)
    share = corpus.documents / looked
    return Count(round(passages * share), round(vectors * share), step == 1)


def sizes(count: Count, text_bytes: int, model: Any) -> list[Size]:
    """Bytes of every format, of the search vectors, and of their index, beside those of the texts."""
    hidden_size, width = widths(model)
    totals = {
        name: count.vectors * Facts(None, None, name, hidden_size, width).vector_bytes
        for name in FORMATS
        if name != "int4" or hidden_size % 2 == 0
    }
    totals["search vectors"] = 2 * width * count.passages
    totals["their index"] = (width // 8 + INDEX_BYTES) * count.passages
    return [Size(name, total / count.passages, total, total / text_bytes) for name, total in totals.items()]
