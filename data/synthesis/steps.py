"""The steps of the datatrove pipelines: read passages or questions, generate, finish."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from .distillation import distillation_items
from .passages import read_passages
from .retrievers import BM25Retriever
from .seeds import read_seeds
from .sources import read_sources
from .worker import Item, Job, OpenTeacher, run_rank


class ReadPassages(PipelineStep):
    """Reads documents, cuts them into passages and gives each rank its share.

    A passage's rank follows from its content, so that the same passage always falls to the same rank.

    Args:
        paths: files and folders of documents.
        limit: the most passages; None for all.
        passage_words: the most words of a passage.
    """

    name = "Passages"
    type = "Reader"

    def __init__(self, paths: Sequence[str], limit: int | None = None, passage_words: int = 150) -> None:
        super().__init__()
        self.paths, self.limit, self.passage_words = list(paths), limit, passage_words

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the rank's passages."""
        for id, text in islice(read_passages(read_sources(self.paths), self.passage_words), self.limit):
            if _rank_of(f"{id}\0{text}", world_size) == rank:
                yield Document(text=text, id=id)


class ReadQuestions(PipelineStep):
    """Reads questions, finds their documents by BM25 and gives each rank its share.

    Args:
        paths: files and folders of documents, the corpus.
        questions: a source of question rows or of pretraining rows; see `read_seeds`.
        documents_each: documents for each question, K.
        limit: the most questions; None for all.
        passage_words: the most words of a passage.
    """

    name = "Questions"
    type = "Reader"

    def __init__(
        self, paths: Sequence[str], questions: str, documents_each: int, limit: int | None, passage_words: int
    ) -> None:
        super().__init__()
        self.paths, self.questions, self.documents_each = list(paths), questions, documents_each
        self.limit, self.passage_words = limit, passage_words

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the rank's questions, each with its documents in the metadata."""
        retriever = BM25Retriever(read_texts(self.paths, self.passage_words))
        seeds = islice(read_seeds(self.questions), self.limit)
        mine = (seed for seed in seeds if _rank_of(seed.question, world_size) == rank)
        for item in distillation_items(mine, retriever, self.documents_each):
            yield Document(text=item.text, id=item.id, metadata=item.extra)


class Generate(PipelineStep):
    """Runs a job on every document of a rank; any datatrove reader may stand before it.

    Args:
        job: what is done with each document.
        open_teacher: opens the teacher; called once in each rank.
        folder: the output folder.
        items_at_once: the most documents in flight in a rank.
        chunk_size: rows in one file of raw outcomes.
    """

    name = "Generate"
    type = "Model call"

    def __init__(
        self,
        job: Job,
        open_teacher: OpenTeacher,
        folder: str,
        items_at_once: int = 64,
        chunk_size: int = 1000,
    ) -> None:
        super().__init__()
        self.job, self.open_teacher, self.folder = job, open_teacher, folder
        self.items_at_once, self.chunk_size = items_at_once, chunk_size

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> None:
        """Runs the rank; see `run_rank`."""
        items = (Item(document.id, document.text, document.metadata) for document in data)
        totals = run_rank(
            items, self.job, self.open_teacher, self.folder, rank, self.items_at_once, self.chunk_size
        )
        for name, value in totals.items():
            self.stat_update(name, value=value)


class Finish(PipelineStep):
    """Turns the raw outcomes of all ranks into training rows.

    Args:
        finish: what does it, called with the output folder.
        folder: the output folder.
    """

    name = "Finish"
    type = "Gates"

    def __init__(self, finish: Callable[[str], Any], folder: str) -> None:
        super().__init__()
        self.finish, self.folder = finish, folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Runs it, in rank 0."""
        if rank == 0:
            self.finish(self.folder)


def read_texts(paths: Sequence[str], passage_words: int) -> list[str]:
    """Returns the passages of a corpus, without empty ones and repetitions."""
    return list(dict.fromkeys(text for _, text in read_passages(read_sources(paths), passage_words) if text))


def _rank_of(text: str, world_size: int) -> int:
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") % world_size
