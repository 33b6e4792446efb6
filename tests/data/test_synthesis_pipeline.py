import json

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("py3langid")
pytest.importorskip("bm25s")

from clara.data.readers import read_pretraining
from clara.data.synthesis import report as report_module
from clara.data.synthesis.executors import EXECUTORS
from clara.data.synthesis.finish import finish, read_outcomes
from clara.data.synthesis.gates import GateSettings
from clara.data.synthesis.pipeline import RunSettings, pretraining_pipeline
from clara.data.synthesis.report import push_to_hub
from clara.data.synthesis.teacher import TeacherSettings

SCRIPTED = TeacherSettings("scripted")
QUESTION = (
    "Which name or number completes the statement “The tower of Town ____ was built in 1907 by Anna Smith”?"
)


@pytest.fixture(autouse=True)
def quiet(monkeypatch, request):
    """No log on the terminal, and no picture except where it is looked at (it takes most of the time)."""
    from loguru import logger

    if "report" not in request.node.name:
        monkeypatch.setattr(report_module, "_picture", lambda counts, path: None)
    logger.disable("datatrove")
    yield
    logger.enable("datatrove")


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "documents.jsonl"
    rows = [
        {
            "id": str(n),
            "text": f"The tower of Town was built in {1900 + n} by Anna Smith. It has {n + 30} old steps.",
        }
        for n in range(10)
    ]
    rows[3]["text"] = ""
    rows[4]["text"] = "nothing to ask about here"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_report_and_card_of_a_whole_run(documents, tmp_path):
    out = tmp_path / "out"
    pretraining_pipeline([documents], out, SCRIPTED).run()
    outcomes = {outcome.id: outcome for outcome in read_outcomes(out)}
    assert sorted(outcomes) == [str(n) for n in range(10) if n != 3]  # 3 holds no text and is left out
    assert [signal.reason for signal in outcomes["4"].signals] == ["no_pairs", "no_pairs", ""]
    records = list(read_pretraining(out / "data"))
    assert len(records) == 8
    assert all(record.num_signals >= 2 and not record.paraphrases for record in records)
    report = json.loads((out / "report.json").read_text())
    assert report["documents"] == 9
    assert report["kinds"]["simple"]["accepted"] == 8
    assert report["kinds"]["simple"]["items"] == sum(report["kinds"]["simple"]["answer_words"].values()) == 16
    assert report["kinds"]["paraphrase"]["documents_rejected"]["paraphrase_copies"] >= 8
    assert report["totals"]["items"] == 9
    text = (out / "report.md").read_text()
    assert "8 of 9 passages (88.9%) yielded at least one signal" in text
    assert "| simple | passage | no_pairs | 1 |" in text
    assert "## Samples: accepted" in text
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    readme = (out / "README.md").read_text()
    assert "path: data/*.jsonl" in readme and "Teacher: scripted" in readme


def test_rerun_does_nothing_and_a_larger_limit_goes_on(documents, tmp_path):
    out = tmp_path / "out"
    for limit, total in ((4, 4), (4, 4), (9, 9)):
        pretraining_pipeline([documents], out, SCRIPTED, run=RunSettings(limit=limit)).run()
        assert len(list(read_outcomes(out))) == total
    progress = json.loads((out / "progress" / "00000.json").read_text())
    assert (progress["items"], progress["state"]) == (9, "done")


def test_ranks_share_the_work_without_overlap(documents, tmp_path):
    out = tmp_path / "out"
    run = RunSettings(tasks=3, options={"workers": 1})
    pretraining_pipeline([documents], out, SCRIPTED, run=run).run()
    assert sorted(outcome.id for outcome in read_outcomes(out)) == [str(n) for n in range(10) if n != 3]
    rows = [len(file.read_text().splitlines()) for file in (out / "raw").iterdir()]
    assert len(rows) == 3 and sum(rows) == 9 and max(rows) < 9


def test_other_settings_need_another_folder(documents, tmp_path):
    pretraining_pipeline([documents], tmp_path, SCRIPTED)
    with pytest.raises(ValueError, match="was begun with tasks = 1, not 2"):
        pretraining_pipeline([documents], tmp_path, SCRIPTED, run=RunSettings(tasks=2))
    with pytest.raises(ValueError, match="was begun with teacher = 'scripted', not 'qwen'"):
        pretraining_pipeline([documents], tmp_path, TeacherSettings("http://x/v1", "qwen"))


def test_gates_run_again_without_a_teacher(documents, tmp_path):
    out = tmp_path / "out"
    pretraining_pipeline([documents], out, SCRIPTED).run()
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(
        json.dumps({"question": QUESTION.replace("Town ____ was", "Town was").replace("1907", "____")})
    )
    counts = finish(out, GateSettings(max_copied=1.0), [evaluation], "parquet", records_per_file=5)
    assert counts.kinds["paraphrase"].accepted > 0
    assert counts.kinds["simple"].pairs_rejected["contaminated"] == 0 < counts.kinds["simple"].items
    assert {file.suffix for file in (out / "data").iterdir()} == {".parquet"}
    assert len(list((out / "data").iterdir())) > 1
    assert any(record.paraphrases for record in read_pretraining(out / "data"))
    strict = finish(out, GateSettings(max_overlap=0.3), [evaluation])
    assert strict.kinds["simple"].pairs_rejected["contaminated"] > 0


def test_finish_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no raw outcomes"):
        finish(tmp_path)
    with pytest.raises(ValueError, match="`form` must be one of jsonl, parquet"):
        finish(tmp_path, form="csv")


def test_slurm_and_ray_take_the_same_pipeline(documents, tmp_path):
    slurm = RunSettings(tasks=100, executor="slurm", options={"time": "1:00:00", "partition": "cpu"})
    executor = pretraining_pipeline([documents], tmp_path / "a", SCRIPTED, run=slurm)
    assert (executor.tasks, executor.depends.tasks, executor.depends.partition) == (1, 100, "cpu")
    assert executor.depends.time == "1:00:00"
    ray = pretraining_pipeline(
        [documents], tmp_path / "b", SCRIPTED, run=RunSettings(tasks=7, executor="ray")
    )
    assert ray.depends.tasks == 7
    assert set(EXECUTORS) == {"local", "slurm", "ray"}
    import dill

    job = executor.depends.pipeline[1].job
    assert dill.loads(dill.dumps(executor.depends.pipeline))[1].job.keywords == job.keywords


def test_push_uploads_rows_and_card_but_no_state(documents, tmp_path, monkeypatch):
    out, calls = tmp_path / "out", []
    with pytest.raises(ValueError, match="holds no finished rows"):
        push_to_hub(tmp_path, "me/rows")
    pretraining_pipeline([documents], out, SCRIPTED).run()

    class Api:
        def create_repo(self, *args, **options):
            calls.append((args, options))

        def upload_folder(self, **options):
            calls.append(options)
            return "https://address"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert push_to_hub(out, "me/rows") == "https://address"
    assert calls[0] == (("me/rows",), {"repo_type": "dataset", "private": True, "exist_ok": True})
    assert calls[1]["allow_patterns"] == list(report_module.SHARED_FILES)
    assert not any(pattern.startswith(("raw", "state")) for pattern in report_module.SHARED_FILES)


def test_card_loads_as_a_data_set(documents, tmp_path):
    datasets = pytest.importorskip("datasets")
    pretraining_pipeline([documents], tmp_path / "out", SCRIPTED).run()
    rows = datasets.load_dataset(
        str(tmp_path / "out"), "pretraining", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert set(rows.column_names) == {"data_type", "question", "answers", "docs", "id"}
    assert len(rows) == 16


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"executor": "spark"}, "`executor` must be one of local, slurm, ray, got 'spark'"),
        ({"tasks": 0}, "`tasks` must be at least 1"),
        ({"limit": 0}, "`limit` must be at least 1"),
    ],
)
def test_bad_run_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        RunSettings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"teacher": "qwen"}, "`teacher` must be an address"),
        ({"teacher": "local:"}, "`teacher` must be an address"),
        ({"teacher": "scripted", "concurrency": 0}, "`concurrency` must be positive"),
    ],
)
def test_bad_teacher_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TeacherSettings(**values)
