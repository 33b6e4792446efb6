"""End-to-end training from stored memories: candidates are compressed once, not at every step."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.collation import Item, draw_rate
from ..data.records import QuestionRecord
from ..documents_clara import Passages
from ..manifest_clara import MANIFEST
from ..memory_clara import CorpusMemory
from ..processing_clara import ClaraProcessor

logger = logging.getLogger(__name__)


def store_candidates(
    model: Any, records: Iterable[QuestionRecord], folder: str | os.PathLike, batch_size: int = 32
) -> tuple[CorpusMemory, dict[str, int]]:
    """Compresses every candidate document of the records once, or opens a store that holds them all.

    A candidate is one memory: what lies beyond its first passage (`doc_max_length` tokens) is cut off, as in
    the paper, and counted in the log.

    Args:
        model: The model whose (frozen) compressor makes the memories.
        records: Questions with their candidates.
        folder: Where the store is kept; any store of these passages will do, such as a whole corpus' of
            `clara build-memory`.
        batch_size: Passages compressed at once.

    Returns:
        The store, and the place in it of each candidate's text.

    Raises:
        ValueError: If the folder holds a store of another compressor, or one that lacks a candidate.
    """
    first = first_passages(model.processor, records)
    if not os.path.isfile(os.path.join(folder, MANIFEST)):
        passages = Passages()
        for place, text in enumerate(dict.fromkeys(first.values())):
            passages.add(str(place), [text], {})
        memory = model.compress_passages(passages, batch_size=batch_size, show_progress=True)
        memory.save_pretrained(folder)
    else:
        memory = model.load_memory(os.fspath(folder))
    known = {text: place for place, text in enumerate(memory.texts)}
    missing = [text for text in first.values() if text not in known]
    if missing:
        raise ValueError(
            f"{folder} holds no memory of {len(missing)} of the {len(first)} candidates, first "
            f"{missing[0]!r:.80}: name another `memory_folder`, or remove it."
        )
    return memory, {text: known[passage] for text, passage in first.items()}


def first_passages(processor: ClaraProcessor, records: Iterable[QuestionRecord]) -> dict[str, str]:
    """Each candidate's text and its first passage, in the order in which the texts first occur."""
    texts = list(dict.fromkeys(text for record in records for text in record.documents))
    parts = processor.split_documents(texts)
    cut = sum(len(part) > 1 for part in parts)
    if cut:
        logger.warning("%d of %d candidates exceed doc_max_length and were cut", cut, len(texts))
    return {text: part[0] for text, part in zip(texts, parts, strict=True)}


@dataclass
class EndToEndCollator:
    """Questions with pools of stored memories, prompts with K slots, answers (paper section 3.2).

    Attributes:
        processor: The model's processor.
        memory: The store of every candidate.
        places: Text of a candidate to its place in the store.
        retrieval_top_k: K documents given to the generator.
        num_memory_tokens: Rates to train at once.
        seed: Seed of that draw.
    """

    processor: ClaraProcessor
    memory: CorpusMemory
    places: Mapping[str, int]
    retrieval_top_k: int = 5
    num_memory_tokens: Sequence[int] = ()
    seed: int = 0

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        """Makes a batch of B questions with pools padded to the widest, N documents.

        Returns:
            `memory` (B, N, M, H), `memory_mask` and `positives` (B, N) bool, `query_input_ids` and its mask
            (B, Lq), and `input_ids`, `attention_mask`, `labels` (B, L).

        Raises:
            ValueError: If a question has fewer than K candidates.
        """
        records = [item.record for item in items]
        fewest = min(len(record.documents) for record in records)
        if fewest < self.retrieval_top_k:
            raise ValueError(
                f"A question has {fewest} candidates, fewer than `retrieval_top_k` = {self.retrieval_top_k}: "
                "lower it or fill the pools."
            )
        places, mask, positives = pools(records, self.places)
        size = draw_rate(self.num_memory_tokens, items, self.seed)
        query = self.processor.encode_questions([record.question for record in records])
        prompts = self.processor.encode_prompts(
            [record.question for record in records],
            self.retrieval_top_k,
            [record.target for record in records],
            size,
        )
        batch = {
            "memory": self.memory.gather(places),
            "memory_mask": mask,
            "positives": positives,
            **{f"query_{name}": tensor for name, tensor in query.items()},
            **prompts,
        }
        return batch if size is None else {**batch, "num_memory_tokens": size}


def pools(records: Sequence[QuestionRecord], places: Mapping[str, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Places in the store, mask and positives of each record's pool, (B, N) each, padded at the end."""
    width = max(len(record.documents) for record in records)
    found = torch.zeros(len(records), width, dtype=torch.long)
    mask = torch.zeros(len(records), width, dtype=torch.bool)
    positives = torch.zeros(len(records), width, dtype=torch.bool)
    for row, record in enumerate(records):
        found[row, : len(record.documents)] = torch.tensor([places[text] for text in record.documents])
        mask[row, : len(record.documents)] = True
        positives[row, list(record.positives)] = True
    return found, mask, positives
