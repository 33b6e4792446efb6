"""From raw outcomes to training rows: the gates, the released schema, the report and the card.

Runs after generation and needs no teacher, so that the gates can be changed and run again for nothing.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..records import PretrainingRecord, QuestionRecord
from ..writers import write_jsonl, write_parquet
from .gates import EvaluationQuestions, Gates, GateSettings
from .machine import DocumentOutcome
from .passages import read_texts
from .questions import build_pools, distilled_record, read_seeds
from .report import Counts, table, total_progress, write_card, write_manifest, write_report
from .retrievers import BM25Retriever, Retriever

WRITERS = {"jsonl": write_jsonl, "parquet": write_parquet}
_OUTCOME = TypeAdapter(DocumentOutcome)


def finish(
    folder: str | Path,
    settings: GateSettings | None = None,
    evaluation_files: Sequence[str | Path] = (),
    form: str = "jsonl",
    records_per_file: int = 50_000,
) -> Counts:
    """Turns the raw outcomes of a synthesis into training rows in `data/`, and reports on them.

    Args:
        folder: the synthesis' output folder.
        settings: limits of the gates.
        evaluation_files: files of questions to keep out of the training data; see `read_seeds`.
        form: "jsonl" or "parquet".
        records_per_file: records in one file.

    Returns:
        The counts that the report shows.

    Raises:
        ValueError: if `form` is unknown or `folder` holds no raw outcomes.
    """
    folder = Path(folder)
    if form not in WRITERS:
        raise ValueError(f"`form` must be one of {', '.join(WRITERS)}, got {form!r}.")
    kept_out = (seed.question for file in evaluation_files for seed in read_seeds(file))
    gates, counts = Gates(settings or GateSettings(), EvaluationQuestions(kept_out)), Counts()
    records = _records(read_outcomes(folder), gates, counts)
    fresh = folder / ".data"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for number, batch in enumerate(_batches(records, records_per_file)):
        WRITERS[form](batch, fresh / f"pretraining-{number:05d}.{form}")
    shutil.rmtree(folder / "data", ignore_errors=True)
    os.replace(fresh, folder / "data")
    said = write_report(folder, counts)
    write_card(folder, "pretraining", form, said, table(counts))
    return counts


def read_outcomes(folder: str | Path) -> Iterator[DocumentOutcome]:
    """Reads the raw outcomes of a synthesis, one a document; a ValueError if there are none."""
    return map(_OUTCOME.validate_python, read_raw(folder))


def read_raw(folder: str | Path) -> Iterator[dict[str, Any]]:
    """Reads the raw rows of a synthesis; a ValueError if there are none."""
    files = sorted((Path(folder) / "raw").glob("*.jsonl"))
    if not files:
        raise ValueError(f"`folder` {folder} holds no raw outcomes: run the generation first.")
    for file in files:
        with file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _records(
    outcomes: Iterable[DocumentOutcome], gates: Gates, counts: Counts
) -> Iterator[PretrainingRecord]:
    """The accepted signals of all documents: a record for each kind, as in the released data."""
    for outcome in outcomes:
        gated = gates.apply(outcome)
        counts.add(outcome, gated)
        for signal in gated.signals:
            if signal.accepted and signal.kind == "paraphrase":
                yield PretrainingRecord(outcome.document, paraphrases=(signal.text,), id=outcome.id)
            elif signal.accepted:
                questions = tuple(pair.question for pair in signal.pairs)
                answers = tuple((pair.answer,) for pair in signal.pairs)
                yield PretrainingRecord(outcome.document, questions, answers, id=outcome.id)


def _batches(records: Iterator[PretrainingRecord], size: int) -> Iterator[Iterator[PretrainingRecord]]:
    """Cuts a stream into streams of at most `size` records; each must be used up before the next is taken."""
    for first in records:
        yield chain([first], islice(records, size - 1))


def finish_distillation(folder: str | Path, form: str = "jsonl") -> Counter:
    """Writes the kept rows to `data/`, with a report of the reasons for leaving others out, and a card.

    Args:
        folder: the output folder.
        form: "jsonl" or "parquet".

    Returns:
        Questions by reason; "accepted" for the kept ones.

    Raises:
        ValueError: if `folder` holds no raw rows, or no question was kept and `form` is "parquet".
    """
    folder, counts = Path(folder), Counter()

    def kept() -> Iterator[QuestionRecord]:
        for row in read_raw(folder):
            counts[row["reason"] or "accepted"] += 1
            if not row["reason"]:
                yield distilled_record(row)

    WRITERS[form](kept(), folder / "data" / f"instruction_tuning-00000.{form}")
    lines = [f"| {reason} | {number} |" for reason, number in counts.most_common()]
    shown = "\n".join(["| outcome | questions |", "|---|---|", *lines])
    said = f"{counts['accepted']} of {counts.total()} questions were kept."
    (folder / "report.md").write_text(f"# Distillation report\n\n{said}\n\n{shown}\n", encoding="utf-8")
    report = {"totals": total_progress(folder), "questions": counts}
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    write_card(folder, "instruction_tuning", form, said, shown)
    return counts


def write_end_to_end(
    documents: Sequence[str | Path],
    questions: str | Path,
    output: str | Path,
    pool_size: int = 20,
    limit: int | None = None,
    passage_words: int = 150,
    form: str = "jsonl",
    retriever: Retriever | None = None,
    found_by: str = "BM25",
    **options: bool,
) -> int:
    """Writes every question with a pool of candidates, the manifest and the card.

    Args:
        documents: files and folders, the corpus of BM25.
        questions: a source of question rows or of pretraining rows; see `read_seeds`.
        output: the output folder.
        pool_size: documents in each pool, N.
        limit: the most questions; None for all.
        passage_words: the most words of a passage.
        form: "jsonl" or "parquet".
        retriever: finds the candidates; None: BM25 over the documents.
        found_by: what the card calls the retriever.
        **options: `force_positives` and `without_answers`; see `build_pools`.

    Returns:
        The number of rows.

    Raises:
        ValueError: if a question lacks an answer, the corpus is smaller than the pool, or the folder was made
            with other settings.
    """
    output, found = Path(output), Counter()
    made = {"teacher": f"none (pools of {found_by})", "prompt_version": "none"}
    settings = {"pool_size": pool_size, "passage_words": passage_words, **options}
    write_manifest(output, {"stage": "end_to_end", **made, "settings": settings})
    if retriever is None:
        retriever = BM25Retriever(read_texts(documents, passage_words))

    def counted() -> Iterator[QuestionRecord]:
        for record in build_pools(islice(read_seeds(questions), limit), retriever, pool_size, **options):
            found["with a positive"] += bool(record.positives)
            yield record

    rows = WRITERS[form](counted(), output / "data" / f"end_to_end-00000.{form}")
    share = found["with a positive"] / rows if rows else 0.0
    said = (
        f"{rows} questions with {pool_size} candidates each; a known positive is in {share:.1%} of the pools."
    )
    write_card(output, "end_to_end", form, said)
    return rows
