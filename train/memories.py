"""End-to-end training from stored memories: candidates are compressed once, not at every step.

Letters of the shapes: B questions, N candidates of each, P all candidates, M memory vectors, H hidden width.
"""

import hashlib
import itertools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..data.collation import Item, draw_rate
from ..data.records import QuestionRecord
from ..data.writers import whole_file
from ..processing_clara import ClaraProcessor
from ..retrieval_clara import Memories

logger = logging.getLogger(__name__)


def ragged(values: Tensor, offsets: Tensor, indices: Tensor, length: int | None = None) -> Memories:
    """Memories at indices out of all vectors in one row.

    Args:
        values: (T, H).
        offsets: (N + 1,) int64: memory i is values[offsets[i]:offsets[i + 1]].
        indices: (...) int64.
        length: M; that of the longest chosen memory by default.

    Returns:
        `Memories` (..., M, H).
    """
    starts, counts = offsets[indices], offsets[indices + 1] - offsets[indices]
    places = torch.arange(int(counts.max()) if length is None else length, device=values.device)
    own = places < counts.unsqueeze(-1)
    found = values[torch.where(own, starts.unsqueeze(-1) + places, 0)]
    return Memories(found.masked_fill(~own.unsqueeze(-1), 0), counts)


class Candidates(NamedTuple):
    """The memories of all P candidates of a run, ragged, and the place of each text.

    Attributes:
        values: (T, H) the vectors of all memories, one memory after the other.
        offsets: (P + 1,) int64: memory i is values[offsets[i]:offsets[i + 1]].
        vectors: (P, D) float32 search vectors.
        places: Text of a candidate to its place. A longer text is the memory of its first passage.
        texts: The P passages.
    """

    values: Tensor
    offsets: Tensor
    vectors: Tensor
    places: Mapping[str, int]
    texts: list[str]

    def to(self, device: torch.device | str) -> "Candidates":
        """The tensors on another device."""
        return self._replace(
            values=self.values.to(device), offsets=self.offsets.to(device), vectors=self.vectors.to(device)
        )

    def batch(self, indices: Tensor, length: int) -> dict[str, Tensor]:
        """What the model's forward takes of the memories at (B, N) places, padded to M = `length`."""
        memories = ragged(self.values, self.offsets, indices.to(self.values.device), length)
        return {
            "memory": memories.values,
            "memory_counts": memories.counts,
            "memory_vectors": self.vectors[indices.to(self.vectors.device)],
        }


def store_candidates(
    model: Any,
    records: Sequence[QuestionRecord],
    folder: str | os.PathLike | None,
    batch_size: int = 32,
    others: Sequence[str] = (),
    needed: int = 1,
) -> Candidates:
    """Compresses every candidate document of the records once, or opens a store that holds them all.

    A candidate is one memory: what lies beyond its first passage (`doc_max_length` tokens) is cut off, as in
    the paper, and counted in the log.

    Args:
        model: The model whose (frozen) compressor makes the memories.
        records: Questions with their candidates.
        folder: Where the memories are kept (None: in memory alone).
        batch_size: Passages compressed at once.
        others: Further passages of the corpus, beside the records' candidates.
        needed: Candidates that each record must have. Documents that begin alike are one.

    Raises:
        ValueError: If a record has fewer, before any is compressed; if the folder holds memories of another
            compressor, or lacks a candidate.
    """
    first = first_passages(model.processor, [text for record in records for text in record.documents], others)
    texts = list(dict.fromkeys(first.values()))
    known = {text: place for place, text in enumerate(texts)}
    places = {text: known[part] for text, part in first.items()}
    _check_distinct(records, places, needed, model.processor.encoder_length or model.processor.doc_max_length)
    if folder is None:
        return Candidates(**compressed(model, texts, batch_size), places=places, texts=texts)
    file = os.path.join(folder, "candidates.safetensors")
    identity = {"fingerprint": model.memory_fingerprint(), "texts": text_digest(texts)}
    if not os.path.isfile(file):
        with whole_file(file) as partial:
            save_file(compressed(model, texts, batch_size), partial, identity)
    with safe_open(file, "pt") as opened:
        found = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in list(opened.keys())}
    if found != identity:
        raise ValueError(
            f"{file} holds the memories of another compressor or of other candidates: name another "
            "`memory_folder`, or remove it."
        )
    return Candidates(**tensors, places=places, texts=texts)


def _check_distinct(
    records: Sequence[QuestionRecord], places: Mapping[str, int], needed: int, limit: int
) -> None:
    for row, record in enumerate(records):
        count = len({places[text] for text in record.documents})
        if count < needed:
            raise ValueError(
                f"Row {row} has {count} documents that differ in their first {limit} tokens, the most "
                f"that is read, fewer than `retrieval_top_k` = {needed}: lower it, set `pool_size`, or leave "
                "the row out."
            )


def searched(args: Any, candidates: Candidates | None) -> dict[str, str]:
    """What a run that learns against all candidates, and not a row's own alone, hangs on as well."""
    against_all = args.pool_size or args.contrastive_candidates == "corpus"
    return {"candidates": text_digest(candidates.texts)} if against_all and candidates is not None else {}


def text_digest(texts: Sequence[str]) -> str:
    """SHA-256 over texts, their borders included."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def compressed(model: Any, texts: Sequence[str], batch_size: int) -> dict[str, Tensor]:
    """`values`, `offsets` and `vectors` of the memories of passages, on the CPU."""
    found = model.compress_texts(texts, batch_size, show_progress=True)
    return dict(zip(("values", "offsets", "vectors"), found, strict=True))


def first_passages(processor: ClaraProcessor, *texts: Iterable[str]) -> dict[str, str]:
    """Each text and its first passage, in the order in which the texts first occur."""
    unique = list(dict.fromkeys(itertools.chain(*texts)))
    parts = processor.split_documents(unique)
    cut = sum(len(part) > 1 for part in parts)
    if cut:
        logger.warning("%d of %d candidates exceed doc_max_length and were cut", cut, len(unique))
    return {text: part[0] for text, part in zip(unique, parts, strict=True)}


@dataclass
class EndToEndCollator:
    """Questions with pools of stored memories, prompts with K slots, answers (paper section 3.2).

    Attributes:
        processor: The model's processor.
        candidates: The memories of every candidate.
        retrieval_top_k: K documents given to the generator.
        rate_factors: Rates to train at once.
        pool_size: Candidates of a question, as many as its row has by default; the trainer fills smaller
            pools from the whole corpus.
        seed: Seed of the rates' draw.
    """

    processor: ClaraProcessor
    candidates: Candidates
    retrieval_top_k: int = 5
    rate_factors: Sequence[int] = (1,)
    pool_size: int | None = None
    seed: int = 0

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        """Makes a batch of B questions with pools padded to the widest, N documents.

        Returns:
            `candidate_indices` (B, N) places in `candidates`, `memory_mask` and `positives` (B, N) bool,
            `query_input_ids` and its mask (B, Lq), the questions' texts `query_texts` (B), `rate_factor`, and
            `input_ids`, `attention_mask`, `labels` (B, L) with K times M slots.

        Raises:
            ValueError: If a question has fewer than K candidates.
        """
        records = [item.record for item in items]
        places, mask, positives = pools(records, self.candidates.places)
        fewest = int(mask.sum(dim=-1).min())
        if (self.pool_size or fewest) < self.retrieval_top_k:
            raise ValueError(
                f"A question has {fewest} candidates, fewer than `retrieval_top_k` = {self.retrieval_top_k}: "
                "lower it, fill the pools, or set `pool_size`."
            )
        factor = draw_rate(self.rate_factors, items, self.seed)
        slots = -(-self.processor.num_memory_tokens // factor)
        questions = [record.question for record in records]
        prompts = self.processor.encode_prompts(
            questions, [[slots] * self.retrieval_top_k] * len(records), [record.target for record in records]
        )
        return {
            "candidate_indices": places,
            "memory_mask": mask,
            "positives": positives,
            "query_texts": questions,
            "rate_factor": factor,
            **{
                f"query_{name}": tensor for name, tensor in self.processor.encode_questions(questions).items()
            },
            **prompts,
        }


def filled(
    places: Tensor, mask: Tensor, positives: Tensor, nearest: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Pools of `size` candidates: the row's own, then those nearest in the whole corpus.

    Args:
        places: (B, N) places of the rows' candidates.
        mask: (B, N) bool, False where a row has fewer.
        positives: (B, N) bool.
        nearest: (B, R) places of the passages nearest to each question in the whole corpus.
        size: Candidates of a question; at least N.

    Returns:
        Places, mask and positives (B, size). No passage is in a row twice; a row of too few is padded.
    """
    pool = torch.cat([places, nearest], dim=-1)
    usable = torch.cat([mask, torch.ones_like(nearest, dtype=torch.bool)], dim=-1)
    gold = torch.cat([positives, torch.zeros_like(nearest, dtype=torch.bool)], dim=-1)
    same = (pool.unsqueeze(-1) == pool.unsqueeze(-2)) & usable.unsqueeze(-2)
    usable &= ~same.tril(-1).any(dim=-1)
    order = (~usable).long().argsort(dim=-1, stable=True)[:, :size]
    usable = usable.gather(-1, order)
    return pool.gather(-1, order) * usable, usable, gold.gather(-1, order) & usable


def pools(records: Sequence[QuestionRecord], places: Mapping[str, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Places in the store, mask and positives of each record's pool, (B, N) each, padded at the end.

    A memory is in a pool once, and positive if one of its documents is.
    """
    kept = [list(dict.fromkeys(places[text] for text in record.documents)) for record in records]
    gold = [{places[record.documents[index]] for index in record.positives} for record in records]
    positives = [[place in own for place in pool] for pool, own in zip(kept, gold, strict=True)]
    return _padded(kept), _padded([[True] * len(pool) for pool in kept]), _padded(positives)


def _padded(rows: Sequence[list]) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
