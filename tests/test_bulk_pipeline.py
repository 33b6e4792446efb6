"""Bulk builds by several processes, on Slurm and on Ray."""

import os
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("datatrove")

from clara.data.bulk import build as build_module
from clara.data.bulk.build import BUILD, join
from clara.data.bulk.pipeline import build_pipeline
from clara.data.bulk.plan import begin, survey
from clara.memory_clara import CorpusMemory
from slurm_helpers import slurm_path
from test_bulk_build import Model, contents
from test_bulk_plan import make_plan, write

TESTS = str(Path(__file__).parent)


def open_model(folder):
    """Opens the stand-in for a model in a worker, whose number it notes in a file."""
    (Path(folder) / f"opened-{os.getpid()}").touch()
    return Model()


@pytest.fixture
def planned(tmp_path):
    """Makes folders with the same plan of ten documents in four shards."""
    (tmp_path / "rows").mkdir()
    corpus = survey([write(tmp_path / "rows", 4, 6)], 3)

    def make(name):
        begin(tmp_path / name / BUILD, make_plan(corpus))
        return tmp_path / name

    return make


@pytest.fixture
def here(planned):
    """The store of a build in this process."""
    build_module._opened.cache_clear()
    output = planned("here")
    build_module.build_shards(output, range(4), Model)
    join(output)
    return contents(output)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")]))


@pytest.mark.slow
def test_two_processes_make_the_same_bytes_as_one(planned, here, tmp_path):
    output = planned("two")
    shards, last = build_pipeline(output, partial(open_model, str(tmp_path)), workers=2)
    shards.run()
    assert 1 <= len(list(tmp_path.glob("opened-*"))) <= 2
    last.run()
    assert contents(output) == here


def test_an_unknown_executor_and_fewer_tasks_than_shards(planned):
    output = planned("a")
    with pytest.raises(ValueError, match="`executor` must be one of local, slurm, ray, got 'pbs'"):
        build_pipeline(output, Model, "pbs")
    for tasks, expected in ((None, 4), (2, 2), (100, 4)):
        assert build_pipeline(output, Model, tasks=tasks)[0].world_size == expected


def test_a_task_builds_every_shard_of_its_number(planned, here):
    output = planned("b")
    build_module._opened.cache_clear()
    shards, last = build_pipeline(output, Model, tasks=3, workers=1)
    for rank in range(3):
        shards.pipeline[0].run(None, rank, 3)
    last.pipeline[0].run(None, 1, 2)
    last.pipeline[0].run(None, 0, 1)
    assert contents(output) == here
    last.pipeline[0].run(None, 0, 1)


@pytest.mark.slow
def test_slurm_builds_and_joins(planned, here, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", slurm_path(tmp_path))
    options = {"partition": "cpu", "time": "1:00:00", "with_srun": False, "env_command": "true"}
    build_pipeline(planned("slurm"), Model, "slurm", **options)[1].run()
    assert contents(tmp_path / "slurm") == here


@pytest.mark.slow
def test_ray_builds_and_joins(planned, here, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    try:
        build_pipeline(planned("ray"), Model, "ray", mem_per_cpu_gb=0.25)[1].run()
    finally:
        ray.shutdown()
    assert contents(tmp_path / "ray") == here
    assert len(CorpusMemory.from_pretrained(tmp_path / "ray")) == 10
