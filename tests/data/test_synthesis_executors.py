"""The pipelines on a real Ray cluster of this machine; the local executor is tested with the pipelines."""

import json

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("openai")

from clara.data.readers import read_pretraining
from clara.data.synthesis.finish import read_outcomes
from clara.data.synthesis.pipeline import RunSettings, pretraining_pipeline
from clara.data.synthesis.teacher import TeacherSettings

RAY = RunSettings(tasks=3, executor="ray", options={"mem_per_cpu_gb": 0.25})


@pytest.fixture(scope="module")
def cluster():
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_AUTH_MODE", "disabled")
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=3, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()
    patch.undo()


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "documents.jsonl"
    text = "The tower of Town {} was built in {} by Anna Smith. It has {} steps."
    rows = [{"id": str(n), "text": text.format(n, 1900 + n, n + 30)} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_ray_runs_every_rank_once_and_a_rerun_finishes_again(cluster, documents, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        pretraining_pipeline([documents], out, TeacherSettings("scripted"), run=RAY).run()
        assert sorted(outcome.id for outcome in read_outcomes(out)) == [str(n) for n in range(10)]
        assert len(list((out / "raw").iterdir())) == 3
        (rows,) = (out / "data").iterdir()
        assert len(list(read_pretraining(rows))) == 10
        rows.unlink()
    progress = [json.loads(file.read_text()) for file in (out / "progress").iterdir()]
    assert sum(row["items"] for row in progress) == 10


@pytest.mark.slow
def test_a_failed_task_is_an_error_and_no_endless_wait(cluster, documents, tmp_path):
    teacher = TeacherSettings("http://127.0.0.1:9/v1", "m")
    with pytest.raises(RuntimeError, match=r"3 of 3 tasks .* no teacher answers at http://127.0.0.1:9/v1"):
        pretraining_pipeline([documents], tmp_path / "out", teacher, run=RAY).run()


@pytest.mark.slow
def test_a_failed_finish_is_not_hidden_by_an_earlier_one(cluster, documents, tmp_path):
    out = tmp_path / "out"
    pretraining_pipeline([documents], out, TeacherSettings("scripted"), run=RAY).run()
    for file in (out / "raw").iterdir():
        file.write_text("{")
    with pytest.raises(RuntimeError, match="1 of 1 tasks did not finish"):
        pretraining_pipeline([documents], out, TeacherSettings("scripted"), run=RAY).run()
