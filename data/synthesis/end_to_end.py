"""Writes end-to-end rows: every question with a pool of candidates found by BM25 or another retriever."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ..records import QuestionRecord
from ..writers import write_jsonl, write_parquet
from .card import card
from .manifest import write_manifest
from .pools import build_pools
from .retrievers import BM25Retriever, Retriever
from .seeds import read_seeds
from .steps import read_texts


def write_end_to_end(
    documents: Sequence[str | Path],
    questions: str | Path,
    output: str | Path,
    pool_size: int = 20,
    force_positives: bool = True,
    limit: int | None = None,
    passage_words: int = 150,
    form: str = "jsonl",
    without_answers: bool = False,
    retriever: Retriever | None = None,
    found_by: str = "BM25",
) -> int:
    """Writes one row for each question that has a gold answer; no teacher is needed.

    Args:
        documents: files and folders, the corpus; positives outside it are added to the pools they belong to.
        questions: a file of questions with gold answers; see `read_seeds`.
        output: the output folder.
        pool_size: documents in each pool, N.
        force_positives: whether known positives always belong to the pool.
        limit: the most questions; None for all.
        passage_words: the most words of a passage.
        form: "jsonl" or "parquet".
        without_answers: see `build_pools`.
        retriever: finds the candidates; None: BM25 over the documents.
        found_by: what the card calls the retriever.

    Returns:
        The number of rows.

    Raises:
        ValueError: if a question lacks an answer, or the corpus is smaller than the pool.
    """
    output = Path(output)
    settings = {"force_positives": force_positives, "without_answers": without_answers}
    manifest = {"stage": "end_to_end", "teacher": f"none (pools of {found_by})", "prompt_version": "none"}
    manifest |= {"settings": {"pool_size": pool_size, **settings}, "passage_words": passage_words}
    write_manifest(output, manifest)
    if retriever is None:
        retriever = BM25Retriever(read_texts([str(path) for path in documents], passage_words))
    seeds = islice(read_seeds(questions), limit)
    tally = _Tally()
    records = tally.watch(build_pools(seeds, retriever, pool_size, **settings))
    path = output / "data" / f"end_to_end-00000.{form}"
    rows = {"jsonl": write_jsonl, "parquet": write_parquet}[form](records, path)
    share = tally.with_positive / rows if rows else 0.0
    said = (
        f"{rows} questions with {pool_size} candidates each; a known positive is in {share:.1%} of the pools"
    )
    (output / "README.md").write_text(card("end_to_end", manifest, form, said, ""), encoding="utf-8")
    return rows


class _Tally:
    """Counts pools that hold a known positive."""

    def __init__(self) -> None:
        self.with_positive = 0

    def watch(self, records: Iterator[QuestionRecord]) -> Iterator[QuestionRecord]:
        """Passes records on and counts them."""
        for record in records:
            self.with_positive += bool(record.positives)
            yield record
