"""Bulk builds as datatrove pipelines: the same on this machine, on a Slurm cluster and on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from ...store.build import StoreBuild
from ..synthesis.executors import EXECUTORS
from .build import build_parts


class CompressParts(PipelineStep):
    """Builds the parts whose numbers fall to a rank: every n-th of n ranks.

    Args:
        output: the folder of the store, where a build was begun.
        open_model: opens the model; equal ones open it once in a process.
    """

    name = "Compress"
    type = "Model call"

    def __init__(self, output: str, open_model: Callable[[], Any]) -> None:
        super().__init__()
        self.output, self.open_model = output, open_model

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Builds the rank's parts that are not done."""
        parts = range(rank, StoreBuild(self.output).plan.parts, world_size)
        build_parts(self.output, parts, self.open_model)


class CommitStore(PipelineStep):
    """Makes the store of the finished parts, in rank 0.

    Args:
        output: the folder of the store.
    """

    name = "Commit"
    type = "Writer"

    def __init__(self, output: str) -> None:
        super().__init__()
        self.output = output

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Commits the parts."""
        build = StoreBuild(self.output)
        if rank == 0 and build.begun:
            build.commit()


def build_pipeline(
    output: str | Path,
    open_model: Callable[[], Any],
    executor: str = "local",
    workers: int = -1,
    tasks: int | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """The two executors of a build that was begun in `output`: all parts, then the store of them.

    Args:
        output: the folder of the store.
        open_model: opens the model; it travels to the workers.
        executor: "local", "slurm" or "ray".
        workers: tasks at work at one time; -1 for all.
        tasks: ranks. Default: one a part.
        **options: more arguments of the datatrove executor, such as Slurm's `partition` and `time`.

    Returns:
        The executor of the parts, and the one that runs it and then commits them.

    Raises:
        ValueError: the executor is unknown.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"`executor` must be one of {', '.join(EXECUTORS)}, got {executor!r}.")
    output = Path(output).absolute()
    parts = StoreBuild(output).plan.parts
    make, logs = EXECUTORS[executor], output.parent / f"{output.name}-logs"
    common = {"skip_completed": False, **options}
    compress = make(
        pipeline=[CompressParts(str(output), open_model)],
        tasks=min(tasks or parts, parts),
        workers=workers,
        logging_dir=str(logs / "parts"),
        **common,
    )
    last = make(
        pipeline=[CommitStore(str(output))],
        tasks=1,
        logging_dir=str(logs / "commit"),
        depends=compress,
        **{**common, "workers": 1},
    )
    return compress, last
