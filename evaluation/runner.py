"""Runs a system over a benchmark in batches and keeps its predictions in a file that a later run continues.

All questions are searched for first; then those with similarly much to read are answered together, the
longest first, so that little is padded. The file is JSON lines: the first holds the run's settings, each
other one a prediction, in the order in which they were answered. A line is whole or not there: one that an
interruption cut short is dropped and its question answered again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from .benchmarks import Example
from .readers import by_size
from .systems import Prediction, System

SEARCH_BATCH = 64


def run_system(
    system: System, examples: Sequence[Example], path: Path, settings: Mapping[str, Any], batch_size: int = 16
) -> list[Prediction]:
    """Answers every example but those that the file already holds.

    Args:
        system: answers batches of examples.
        examples: B questions.
        path: the predictions file, made if absent.
        settings: what decides the predictions, as JSON values; a file of other settings is refused.
        batch_size: questions answered at once.

    Returns:
        B predictions in the order of the examples.

    Raises:
        ValueError: the file is of another run, or is no predictions file.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    done = {prediction.id: prediction for prediction in _open_run(path, settings)}
    if not done.keys() <= {example.id for example in examples}:
        raise ValueError(f"{path} holds other questions than this benchmark: remove the file.")
    left = [example for example in examples if example.id not in done]
    parts = (left[start : start + SEARCH_BATCH] for start in range(0, len(left), SEARCH_BATCH))
    found = [item for part in parts for item in system.find(part)]
    with path.open("a", encoding="utf-8") as file:
        for rows in by_size([item.size for item in found], batch_size, path.stem):
            batch = [found[row] for row in rows]
            predictions = system.read(batch)
            file.writelines(_line(item.example, said) for item, said in zip(batch, predictions, strict=True))
            file.flush()
            done.update((prediction.id, prediction) for prediction in predictions)
    return [done[example.id] for example in examples]


def read_predictions(path: Path) -> tuple[dict[str, Any], list[Prediction]]:
    """Settings and predictions of a file without an unfinished last line; a ValueError if it is damaged."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    try:
        head, *rows = [json.loads(line) for line in lines]
        predictions = [_prediction(row) for row in rows]
        return head["settings"], predictions
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no predictions file, or it is damaged ({error}): move it away."
        ) from error


def _open_run(path: Path, settings: Mapping[str, Any]) -> list[Prediction]:
    """Makes the file, or cuts off its unfinished line; the predictions it holds."""
    if not path.exists() or b"\n" not in path.read_bytes():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"settings": settings}) + "\n", encoding="utf-8")
        return []
    stored, predictions = read_predictions(path)
    other = [key for key in sorted({*stored, *settings}) if stored.get(key) != settings.get(key)]
    if other:
        raise ValueError(
            f"{path} holds the predictions of another run (it differs in {', '.join(other)}): name another "
            "output folder, or remove the file."
        )
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(content.rindex(b"\n") + 1)
    return predictions


def _line(example: Example, prediction: Prediction) -> str:
    shown = {"question": example.question, "answers": example.answers}
    return json.dumps({**asdict(prediction), **shown}, ensure_ascii=False) + "\n"


def _prediction(row: Mapping[str, Any]) -> Prediction:
    values = {field.name: row[field.name] for field in fields(Prediction)}
    return Prediction(**{**values, "documents": tuple(row["documents"]), "scores": tuple(row["scores"])})
