"""Where a pipeline runs: datatrove's executors for this machine, for Slurm and for Ray."""

import os
import threading
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import multiprocess
from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor


class LocalExecutor(LocalPipelineExecutor):
    """datatrove's executor of this machine, whose workers end with the process that started them.

    What its tasks log is in files; only their errors reach the terminal.
    """

    def run(self) -> Any:
        """Runs all tasks that are not completed, and those of the executor that it depends on."""
        with warnings.catch_warnings():
            # The process that is forked here keeps a queue, and does not touch Lance.
            warnings.filterwarnings("ignore", message="lance is not fork-safe")
            return super().run()

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        end_with_parent()
        return super()._run_for_rank(rank, local_rank or 1, node_rank)  # rank 0 would log to the terminal


@cache
def end_with_parent() -> None:
    """Has this process end as soon as the one that started it is gone; does nothing where it has none.

    A killed run would otherwise leave workers that write on.
    """
    parent = multiprocess.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class RayExecutor(RayPipelineExecutor):
    """datatrove's Ray executor, which ends with an error if a task failed.

    The plain one logs a failed task and returns; an executor that depends on it then waits for ever.
    """

    def run(self) -> None:
        """Runs all tasks that are not completed, and those of the executor that it depends on.

        Raises:
            RuntimeError: if a task failed; a rerun goes on.
        """
        if not self.skip_completed:
            for file in self.logging_dir.list_files("completions"):
                self.logging_dir.rm(file)
        super().run()
        failed = self.get_incomplete_ranks(range(self.world_size), skip_completed=True)
        if failed:
            raise RuntimeError(
                f"{len(failed)} of {self.world_size} tasks did not finish, first task {failed[0]}: "
                f"{self._last_words(failed[0])} (logs in {self.logging_dir.path}). Every finished call is "
                "kept: run the same command again."
            )

    def _last_words(self, rank: int) -> str:
        """The last line that a task logged, which is its error."""
        file = f"logs/task_{rank:05d}.log"
        if not self.logging_dir.isfile(file):
            return "it left no log"
        with self.logging_dir.open(file, "r") as lines:
            said = [line.strip() for line in lines if line.strip()]
        return said[-1] if said else "its log is empty"


EXECUTORS = {"local": LocalExecutor, "slurm": SlurmPipelineExecutor, "ray": RayExecutor}


def check_executor(name: str) -> None:
    """Raises a ValueError if there is no executor of that name."""
    if name not in EXECUTORS:
        raise ValueError(f"`executor` must be one of {', '.join(EXECUTORS)}, got {name!r}.")


def two_steps(
    executor: str, work: list, tasks: int, work_logs: Path, last: Callable, last_logs: Path, **options: Any
) -> tuple[Any, Any]:
    """Work in several tasks, and a last step in one task when it is done, always anew.

    The logs of the work say which tasks are completed; `options` are those of the datatrove executor.

    Returns:
        The executor of the work, and the one that runs it and then the last step.
    """
    make = EXECUTORS[executor]
    first = make(pipeline=work, tasks=tasks, logging_dir=str(work_logs), **options)
    once = {**options, "workers": 1, "skip_completed": False}
    return first, make(pipeline=[last], tasks=1, logging_dir=str(last_logs), depends=first, **once)
