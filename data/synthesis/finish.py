"""From raw outcomes to training rows: the gates, the released schema, the report and the card.

Runs after generation and needs no teacher, so that the gates can be changed and run again for nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from ..records import PretrainingRecord
from ..writers import write_jsonl, write_parquet
from .card import write_card
from .counts import Counts
from .decontamination import EvaluationQuestions
from .gates import Gates, GateSettings
from .manifest import read_manifest
from .outcomes import DocumentOutcome
from .report import write_report
from .seeds import read_seeds

WRITERS = {"jsonl": write_jsonl, "parquet": write_parquet}


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
    gates = Gates(settings or GateSettings(), EvaluationQuestions(_questions(evaluation_files)))
    counts = Counts()
    records = _records(read_outcomes(folder), gates, counts)
    fresh = folder / ".data"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for number, batch in enumerate(_batches(records, records_per_file)):
        WRITERS[form](batch, fresh / f"pretraining-{number:05d}.{form}")
    shutil.rmtree(folder / "data", ignore_errors=True)
    os.replace(fresh, folder / "data")
    manifest = read_manifest(folder)
    write_report(folder, counts, manifest)
    write_card(folder, counts, manifest, form)
    return counts


def read_outcomes(folder: str | Path) -> Iterator[DocumentOutcome]:
    """Reads the raw outcomes of a synthesis, one a document.

    Raises:
        ValueError: if there are none.
    """
    files = sorted((Path(folder) / "raw").glob("*.jsonl"))
    if not files:
        raise ValueError(f"`folder` {folder} holds no raw outcomes: run the generation first.")
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield DocumentOutcome.from_row(json.loads(line))


def records_of(outcome: DocumentOutcome) -> list[PretrainingRecord]:
    """Returns the accepted signals of a document as records: one a kind, as in the released data."""
    records = []
    for signal in outcome.signals:
        if signal.accepted and signal.kind == "paraphrase":
            records.append(PretrainingRecord(outcome.document, paraphrases=(signal.text,), id=outcome.id))
        elif signal.accepted:
            questions = tuple(pair.question for pair in signal.pairs)
            answers = tuple((pair.answer,) for pair in signal.pairs)
            records.append(PretrainingRecord(outcome.document, questions, answers, id=outcome.id))
    return records


def _questions(files: Sequence[str | Path]) -> Iterator[str]:
    return (seed.question for file in files for seed in read_seeds(file))


def _records(
    outcomes: Iterable[DocumentOutcome], gates: Gates, counts: Counts
) -> Iterator[PretrainingRecord]:
    for outcome in outcomes:
        gated = gates.apply(outcome)
        counts.add(outcome, gated)
        yield from records_of(gated)


def _batches(records: Iterator[PretrainingRecord], size: int) -> Iterator[Iterator[PretrainingRecord]]:
    """Cuts a stream into streams of at most `size` records; each must be used up before the next is taken."""
    for first in records:
        yield chain([first], islice(records, size - 1))
