"""Bulk builds as datatrove pipelines: the same on this machine, on a Slurm cluster and on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from ...storage_clara import locked
from ..synthesis.executors import EXECUTORS
from .build import BUILD, build_shards, join
from .plan import read_plan


class CompressShards(PipelineStep):
    """Builds the shards whose numbers fall to a rank: every n-th of n ranks.

    Args:
        output: the folder of the store, where a plan lies.
        open_model: opens the model; equal ones open it once in a process.
    """

    name = "Compress"
    type = "Model call"

    def __init__(self, output: str, open_model: Callable[[], Any]) -> None:
        super().__init__()
        self.output, self.open_model = output, open_model

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Builds the rank's shards that are not done."""
        output = Path(self.output)
        shards = range(rank, read_plan(output / BUILD).num_shards, world_size)
        build_shards(output, shards, self.open_model)


class JoinShards(PipelineStep):
    """Makes the store of the finished shards, in rank 0.

    Args:
        output: the folder of the store.
    """

    name = "Join"
    type = "Writer"

    def __init__(self, output: str) -> None:
        super().__init__()
        self.output = output

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Joins the shards."""
        output = Path(self.output)
        if rank == 0 and (output / BUILD).is_dir():
            with locked(output):
                join(output)


def build_pipeline(
    output: str | Path,
    open_model: Callable[[], Any],
    executor: str = "local",
    workers: int = -1,
    tasks: int | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """The two executors of a build whose plan lies in `output`: all shards, then the store of them.

    Args:
        output: the folder of the store.
        open_model: opens the model; it travels to the workers.
        executor: "local", "slurm" or "ray".
        workers: tasks at work at one time; -1 for all.
        tasks: ranks. Default: one a shard.
        **options: more arguments of the datatrove executor, such as Slurm's `partition` and `time`.

    Returns:
        The executor of the shards, and the one that runs it and then joins them.

    Raises:
        ValueError: the executor is unknown.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"`executor` must be one of {', '.join(EXECUTORS)}, got {executor!r}.")
    output = Path(output).absolute()
    num_shards = read_plan(output / BUILD).num_shards
    make, logs = EXECUTORS[executor], output.parent / f"{output.name}-logs"
    common = {"skip_completed": False, **options}
    shards = make(
        pipeline=[CompressShards(str(output), open_model)],
        tasks=min(tasks or num_shards, num_shards),
        workers=workers,
        logging_dir=str(logs / "shards"),
        **common,
    )
    last = make(
        pipeline=[JoinShards(str(output))],
        tasks=1,
        logging_dir=str(logs / "join"),
        depends=shards,
        **{**common, "workers": 1},
    )
    return shards, last
