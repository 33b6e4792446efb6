"""Bulk builds by several processes, on Slurm and on Ray."""

import os
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("datatrove")

from clara.data.bulk import build as build_module
from clara.data.bulk.build import build_parts
from clara.data.bulk.pipeline import build_pipeline
from clara.data.bulk.plan import survey
from clara.store import CorpusStore
from memory_helpers import same
from slurm_helpers import slurm_path
from test_bulk_build import Model, begun
from test_bulk_plan import write

TESTS = os.pathsep.join(map(str, Path(__file__).parents[:2]))  # what the workers import


def open_model(folder):
    """Opens the stand-in for a model in a worker, whose number it notes in a file."""
    (Path(folder) / f"opened-{os.getpid()}").touch()
    return Model()


@pytest.fixture
def planned(tmp_path):
    """Begins builds of the same ten documents in four parts."""
    (tmp_path / "rows").mkdir()
    corpus = survey([write(tmp_path / "rows", 4, 6)], 3)

    def make(name):
        return begun(tmp_path / name, corpus).uri

    return make


@pytest.fixture
def here(planned):
    """The store of a build in this process."""
    build_module._opened.cache_clear()
    output = planned("here")
    build_parts(output, range(4), Model)
    return begun_at(output).commit()


def begun_at(output):
    return build_module.StoreBuild(output)


def opened(output):
    return CorpusStore.open(output, create=False)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")]))


@pytest.mark.slow
def test_two_processes_make_the_same_store_as_one(planned, here, tmp_path):
    output = planned("two")
    parts, last = build_pipeline(output, partial(open_model, str(tmp_path)), workers=2)
    parts.run()
    assert 1 <= len(list(tmp_path.glob("opened-*"))) <= 2
    last.run()
    assert same(opened(output), here)


def test_an_unknown_executor_and_fewer_tasks_than_parts(planned):
    output = planned("a")
    with pytest.raises(ValueError, match="`executor` must be one of local, slurm, ray, got 'pbs'"):
        build_pipeline(output, Model, "pbs")
    for tasks, expected in ((None, 4), (2, 2), (100, 4)):
        assert build_pipeline(output, Model, tasks=tasks)[0].world_size == expected


def test_a_task_builds_every_part_of_its_number(planned, here):
    output = planned("b")
    build_module._opened.cache_clear()
    parts, last = build_pipeline(output, Model, tasks=3, workers=1)
    for rank in range(3):
        parts.pipeline[0](None, rank, 3)
    last.pipeline[0](None, 1, 2)
    last.pipeline[0](None, 0, 1)
    assert same(opened(output), here)
    last.pipeline[0](None, 0, 1)


@pytest.mark.slow
def test_slurm_builds_and_commits(planned, here, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", slurm_path(tmp_path))
    options = {"partition": "cpu", "time": "1:00:00", "with_srun": False, "env_command": "true"}
    build_pipeline(planned("slurm"), Model, "slurm", **options)[1].run()
    assert same(opened(tmp_path / "slurm"), here)


@pytest.mark.slow
def test_ray_builds_and_commits(planned, here, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    try:
        build_pipeline(planned("ray"), Model, "ray", mem_per_cpu_gb=0.25)[1].run()
    finally:
        ray.shutdown()
    assert same(opened(tmp_path / "ray"), here) and len(here) == 10
