"""The syntheses as datatrove pipelines: the same on this machine, on a Slurm cluster and on a Ray cluster.

Every task (rank) takes the items that its number falls to, keeps its own state, and can be killed and run
again.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from ..documents import read_documents
from .executors import check_executor, two_steps
from .finish import finish, finish_distillation
from .machine import SynthesisSettings, synthesize_document
from .passages import read_passages, read_texts
from .prompts import PROMPT_VERSION
from .questions import distil, distillation_items, read_seeds
from .rank import Job, OpenTeacher, run_rank
from .report import write_manifest
from .retrievers import BM25Retriever
from .teacher import Teacher, TeacherSettings, open_teacher


@dataclass(frozen=True)
class RunSettings:
    """Where and how a synthesis runs.

    Options of the datatrove executor are such as `workers`, or Slurm's `partition` and `time`.

    Raises:
        ValueError: if a value is out of range.
    """

    limit: int | None = None  # the most passages (or questions); None for all. A later run may raise it
    passage_words: int = 150  # the most words of a passage; fixed for an output folder
    tasks: int = 1  # the number of ranks; fixed for an output folder
    executor: str = "local"  # "local", "slurm" or "ray"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_executor(self.executor)
        for name in ("passage_words", "tasks", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")


class Generate(PipelineStep):
    """Runs a job on every document of a rank; any datatrove reader may stand before it.

    Args:
        job: what is done with each document.
        open_teacher: opens the teacher; called once in each rank.
        folder: the output folder.
        items_at_once: the most documents in flight in a rank.
    """

    name = "Generate"
    type = "Model call"

    def __init__(self, job: Job, open_teacher: OpenTeacher, folder: str, items_at_once: int = 64) -> None:
        super().__init__()
        self.job, self.open_teacher = job, open_teacher
        self.folder, self.items_at_once = folder, items_at_once

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> None:
        """Runs the rank; see `run_rank`."""
        totals = run_rank(data, self.job, self.open_teacher, self.folder, rank, self.items_at_once)
        for name, value in totals.items():
            self.stat_update(name, value=value)


async def synthesize(
    item: Document, teacher: Teacher, settings: SynthesisSettings
) -> tuple[dict[str, Any], bool]:
    """Makes the signals of one passage: its outcome as a row, and whether a signal was accepted."""
    outcome = await synthesize_document(item.id, item.text, teacher, settings)
    return asdict(outcome), outcome.accepted


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
    settings, run = settings or SynthesisSettings(), run or RunSettings()
    paths = _absolute(documents)
    manifest = {"stage": "pretraining", "settings": asdict(settings)}
    reader = partial(_read_passages, paths=paths, run=run)
    job, last = partial(synthesize, settings=settings), partial(finish, **finish_options)
    return _executors(manifest, reader, job, last, Path(output).absolute(), paths, teacher, run)


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

    Of the documents `documents_each` are found for each of the questions (see `read_seeds`); the options are
    those of `finish_distillation`. All else is as in `pretraining_pipeline`.
    """
    run, paths = run or RunSettings(), _absolute([*documents, questions])
    manifest = {"stage": "instruction_tuning", "settings": {"documents_each": documents_each}}
    reader = partial(_read_questions, paths=paths, documents_each=documents_each, run=run)
    last = partial(finish_distillation, **finish_options)
    return _executors(manifest, reader, distil, last, Path(output).absolute(), paths, teacher, run)


def _absolute(paths: Sequence[str | Path]) -> list[str]:
    return [str(Path(path).absolute()) for path in paths]


def _read_passages(
    data: Any, rank: int, world_size: int, paths: Sequence[str], run: RunSettings
) -> Iterator[Document]:
    """Yields the rank's passages; which rank that is follows from the content, so it is always the same."""
    for id, text in islice(read_passages(read_documents(paths), run.passage_words), run.limit):
        if _rank_of(f"{id}\0{text}", world_size) == rank:
            yield Document(text=text, id=id)


def _read_questions(
    data: Any, rank: int, world_size: int, paths: Sequence[str], documents_each: int, run: RunSettings
) -> Iterator[Document]:
    """Yields the rank's questions, each with its documents by BM25 in the metadata."""
    *corpus, questions = paths
    retriever = BM25Retriever(read_texts(corpus, run.passage_words))
    seeds = islice(read_seeds(questions), run.limit)
    mine = (seed for seed in seeds if _rank_of(seed.question, world_size) == rank)
    yield from distillation_items(mine, retriever, documents_each)


def _finish(data: Any, rank: int, world_size: int, last: Callable[[str], Any], folder: str) -> None:
    """Turns the raw outcomes of all ranks into training rows, in rank 0."""
    if rank == 0:
        last(folder)


def _rank_of(text: str, world_size: int) -> int:
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") % world_size


def _executors(
    manifest: dict[str, Any],
    reader: Callable[..., Iterator[Document]],
    job: Job,
    last: Callable[[str], Any],
    output: Path,
    paths: Sequence[str],
    teacher: TeacherSettings,
    run: RunSettings,
) -> Any:
    """Chains generation, which skips completed ranks, and the last step, which always runs."""
    names = {"teacher": teacher.name, "prompt_version": PROMPT_VERSION}
    write_manifest(output, {**manifest, **names, "passage_words": run.passage_words, "tasks": run.tasks})
    folder, logs = str(output), output / "logs"
    work = [reader, Generate(job, partial(open_teacher, teacher), folder, teacher.concurrency)]
    inputs = logs / f"generate-{_fingerprint(paths, run.limit)}"
    ended = partial(_finish, last=last, folder=folder)
    return two_steps(run.executor, work, run.tasks, inputs, ended, logs / "finish", **run.options)[1]


def _fingerprint(paths: Sequence[str], limit: int | None) -> str:
    """Names a set of inputs, so that more documents in a later run are not taken for done."""
    files = (file for path in map(Path, paths) for file in ([path] if path.is_file() else path.rglob("*")))
    stats = sorted((str(file), file.stat().st_size) for file in files if file.is_file())
    return hashlib.sha256(json.dumps([stats, limit]).encode()).hexdigest()[:12]
