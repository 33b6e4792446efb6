"""Bulk builds as datatrove pipelines: the same on this machine, on a Slurm cluster and on a Ray cluster."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ...store.build import StoreBuild
from ..synthesis.executors import check_executor, two_steps
from .build import build_parts


def _compress(data: Any, rank: int, world_size: int, output: str, open_model: Callable[[], Any]) -> None:
    """Builds the parts of a rank, every n-th of n ranks, that are not done."""
    build_parts(output, range(rank, StoreBuild(output).plan.parts, world_size), open_model)


def _commit(data: Any, rank: int, world_size: int, output: str) -> None:
    """Makes the store of the finished parts, in rank 0."""
    build = StoreBuild(output)
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
        open_model: opens the model; it travels to the workers. Equal ones open it once in a process.
        executor: "local", "slurm" or "ray".
        workers: tasks at work at one time; -1 for all.
        tasks: ranks. Default: one a part.
        **options: more arguments of the datatrove executor, such as Slurm's `partition` and `time`.

    Returns:
        The executor of the parts, and the one that runs it and then commits them.

    Raises:
        ValueError: the executor is unknown.
    """
    check_executor(executor)
    output = Path(output).absolute()
    parts, logs = StoreBuild(output).plan.parts, output.parent / f"{output.name}-logs"
    work = [partial(_compress, output=str(output), open_model=open_model)]
    last = partial(_commit, output=str(output))
    tasks, options = min(tasks or parts, parts), {"skip_completed": False, "workers": workers, **options}
    return two_steps(executor, work, tasks, logs / "parts", last, logs / "commit", **options)
