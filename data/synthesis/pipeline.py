"""The syntheses as datatrove pipelines: the same on this machine, on a Slurm cluster and on a Ray cluster.

Every task (rank) takes the items that its number falls to, keeps its own state, and can be killed and run
again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from .distillation import DistillationJob, finish_distillation
from .executors import EXECUTORS
from .finish import finish
from .machine import synthesize_document
from .manifest import write_manifest
from .prompts import PROMPT_VERSION
from .settings import SynthesisSettings
from .steps import Finish, Generate, ReadPassages, ReadQuestions
from .teacher import Teacher
from .teachers import TeacherSettings, open_teacher
from .worker import Item


@dataclass(frozen=True)
class RunSettings:
    """Where and how a synthesis runs.

    Attributes:
        limit: the most passages (or questions); None for all. A later run may raise it.
        passage_words: the most words of a passage; fixed for an output folder.
        tasks: the number of ranks; fixed for an output folder.
        chunk_size: rows in one file of raw outcomes.
        executor: "local", "slurm" or "ray".
        options: arguments of the datatrove executor, such as `workers`, or Slurm's `partition` and `time`.

    Raises:
        ValueError: if a value is out of range.
    """

    limit: int | None = None
    passage_words: int = 150
    tasks: int = 1
    chunk_size: int = 1000
    executor: str = "local"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise ValueError(f"`executor` must be one of {', '.join(EXECUTORS)}, got {self.executor!r}.")
        for name in ("passage_words", "tasks", "chunk_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"`limit` must be at least 1, got {self.limit}.")


@dataclass(frozen=True)
class PretrainingJob:
    """Makes the signals of one passage."""

    settings: SynthesisSettings

    async def run(self, item: Item, teacher: Teacher) -> tuple[dict[str, Any], bool]:
        """Returns the passage's outcome as a row, and whether a signal was accepted."""
        outcome = await synthesize_document(item.id, item.text, teacher, self.settings)
        return outcome.to_row(), outcome.accepted


def pretraining_pipeline(
    documents: Sequence[str | Path],
    output: str | Path,
    teacher: TeacherSettings,
    settings: SynthesisSettings | None = None,
    run: RunSettings | None = None,
    **finish_options: Any,
) -> Any:
    """Builds the synthesis of pretraining rows: generation in all ranks, then the gates in one.

    Args:
        documents: files and folders.
        output: the output folder; a folder that was begun is continued.
        teacher: who answers.
        settings: which signals, and their limits.
        run: where and how it runs.
        **finish_options: keyword arguments of `finish`.

    Returns:
        A datatrove executor; its `run()` runs everything, or submits it to Slurm.

    Raises:
        ValueError: if the output folder was begun with other settings.
    """
    settings, run, output = settings or SynthesisSettings(), run or RunSettings(), Path(output).absolute()
    paths = [str(Path(path).absolute()) for path in documents]
    _begin(output, "pretraining", teacher, run, settings=asdict(settings))
    generate = Generate(
        PretrainingJob(settings),
        partial(open_teacher, teacher),
        str(output),
        teacher.concurrency,
        run.chunk_size,
    )
    steps = [ReadPassages(paths, run.limit, run.passage_words), generate]
    return _executors(steps, Finish(partial(finish, **finish_options), str(output)), output, paths, run)


def distillation_pipeline(
    documents: Sequence[str | Path],
    questions: str | Path,
    output: str | Path,
    teacher: TeacherSettings,
    documents_each: int = 5,
    run: RunSettings | None = None,
    **finish_options: Any,
) -> Any:
    """Builds the distillation of instruction-tuning rows: retrieval and answers in all ranks, then writing.

    Args:
        documents: files and folders, the corpus.
        questions: a file of questions; see `read_seeds`.
        output: the output folder; a folder that was begun is continued.
        teacher: who answers.
        documents_each: documents for each question, K.
        run: where and how it runs.
        **finish_options: keyword arguments of `finish_distillation`.

    Returns:
        A datatrove executor; its `run()` runs everything, or submits it to Slurm.

    Raises:
        ValueError: if the output folder was begun with other settings.
    """
    run, output, questions = run or RunSettings(), Path(output).absolute(), str(Path(questions).absolute())
    paths = [str(Path(path).absolute()) for path in documents]
    _begin(output, "instruction_tuning", teacher, run, settings={"documents_each": documents_each})
    generate = Generate(
        DistillationJob(), partial(open_teacher, teacher), str(output), teacher.concurrency, run.chunk_size
    )
    steps = [ReadQuestions(paths, questions, documents_each, run.limit, run.passage_words), generate]
    last = Finish(partial(finish_distillation, **finish_options), str(output))
    return _executors(steps, last, output, [*paths, questions], run)


def _begin(output: Path, stage: str, teacher: TeacherSettings, run: RunSettings, **more: Any) -> None:
    """Writes the manifest, or checks that the folder was begun with the same settings."""
    manifest = {"stage": stage, "teacher": teacher.name, "prompt_version": PROMPT_VERSION, **more}
    write_manifest(output, {**manifest, "passage_words": run.passage_words, "tasks": run.tasks})


def _executors(
    steps: list[PipelineStep], last: PipelineStep, output: Path, paths: Sequence[str], run: RunSettings
) -> Any:
    """Chains generation, which skips completed ranks, and the last step, which always runs."""
    make: Callable[..., Any] = EXECUTORS[run.executor]
    logs = output / "logs"
    inputs = str(logs / f"generate-{_fingerprint(paths, run.limit)}")
    generation = make(pipeline=steps, tasks=run.tasks, logging_dir=inputs, **run.options)
    options = {**run.options, "workers": 1, "skip_completed": False}
    return make(pipeline=[last], tasks=1, logging_dir=str(logs / "finish"), depends=generation, **options)


def _fingerprint(paths: Sequence[str], limit: int | None) -> str:
    """Names a set of inputs, so that more documents in a later run are not taken for done."""
    stats = [(str(file), file.stat().st_size) for path in paths for file in _files(Path(path))]
    return hashlib.sha256(json.dumps([stats, limit]).encode()).hexdigest()[:12]


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
