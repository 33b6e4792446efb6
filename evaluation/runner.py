"""Runs a system over a benchmark in batches and keeps its predictions in a file that a later run continues.

All questions are searched for first; then those with similarly much to read are answered together, the
longest first, so that little is padded. The file is JSON lines: the first holds the run's settings and their
fingerprint, each other one a prediction, in the order in which they were answered. A line is whole or not
there: one that an interruption cut short is dropped and its question answered again.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .benchmarks import Example
from .systems import Prediction, System

SEARCH_BATCH = 64


def run_fingerprint(settings: Mapping[str, Any]) -> str:
    """SHA-256 of a run's settings, whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def run_system(
    system: System,
    examples: Sequence[Example],
    path: Path,
    settings: Mapping[str, Any],
    batch_size: int = 16,
    show_progress: bool = True,
) -> list[Prediction]:
    """Answers every example but those that the file already holds.

    Args:
        system: answers batches of examples.
        examples: B questions.
        path: the predictions file, made if absent.
        settings: what decides the predictions, as JSON values; a file of other settings is refused.
        batch_size: questions answered at once.
        show_progress: whether a progress bar is shown.

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
    found = [item for part in _batches(left, SEARCH_BATCH) for item in system.find(part)]
    found.sort(key=lambda item: -item.size)
    with (
        path.open("a", encoding="utf-8") as file,
        tqdm(
            total=len(examples), initial=len(done), desc=path.stem, unit="question", disable=not show_progress
        ) as bar,
    ):
        for batch in _batches(found, batch_size):
            predictions = system.read(batch)
            file.writelines(_line(item.example, said) for item, said in zip(batch, predictions, strict=True))
            file.flush()
            done.update((prediction.id, prediction) for prediction in predictions)
            bar.update(len(batch))
    return [done[example.id] for example in examples]


def read_predictions(path: Path) -> tuple[dict[str, Any], list[Prediction]]:
    """Settings and predictions of a file; a last line without its end is left out.

    Raises:
        ValueError: the file has no head, or a line before the last is damaged.
    """
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    try:
        head, *rows = [json.loads(line) for line in lines]
        predictions = [_prediction(row) for row in rows]
        return {"settings": head["settings"], "fingerprint": head["fingerprint"]}, predictions
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no predictions file, or it is damaged ({error}): move it away."
        ) from error


def _open_run(path: Path, settings: Mapping[str, Any]) -> list[Prediction]:
    """Makes the file, or cuts off its unfinished line; the predictions it holds."""
    fingerprint = run_fingerprint(settings)
    if not path.exists() or b"\n" not in path.read_bytes():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"fingerprint": fingerprint, "settings": settings}) + "\n", encoding="utf-8"
        )
        return []
    head, predictions = read_predictions(path)
    if head["fingerprint"] != fingerprint:
        keys = sorted({*head["settings"], *settings})
        other = [key for key in keys if head["settings"].get(key) != settings.get(key)]
        raise ValueError(
            f"{path} holds the predictions of another run (it differs in {', '.join(other)}): name another "
            "output folder, or remove the file."
        )
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(content.rindex(b"\n") + 1)
    return predictions


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _line(example: Example, prediction: Prediction) -> str:
    shown = {"question": example.question, "answers": example.answers}
    return json.dumps({**asdict(prediction), **shown}, ensure_ascii=False) + "\n"


def _prediction(row: Mapping[str, Any]) -> Prediction:
    values = {field.name: row[field.name] for field in fields(Prediction)}
    return Prediction(**{**values, "documents": tuple(row["documents"]), "scores": tuple(row["scores"])})
