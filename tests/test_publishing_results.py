"""Reports in, tables, model-index and `.eval_results` out; what is missing, foreign or damaged is told."""

import json
import os

import pytest
import yaml
from clara.train.publishing.results import (
    NOT_MEASURED,
    model_index,
    read_reports,
    results_table,
    write_eval_results,
)
from huggingface_hub import parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index

MODEL = "ab" * 32
EM = {"mean": 0.345, "low": 0.3, "high": 0.4, "questions": 100}
F1 = {"mean": 0.5, "low": 0.45, "high": 0.55, "questions": 100}


def report(benchmark="nq", setting="normal", **changes):
    metrics = {"exact_match": EM, "token_f1": F1, "cover_exact_match": EM, "recall@1": EM, "recall@5": F1}
    systems = {
        "clara": {"metrics": metrics, "tokens_read": 120.4, "bytes_per_passage": 18432},
        "text": {
            "metrics": {"exact_match": F1, "token_f1": F1, "cover_exact_match": F1},
            "tokens_read": 800.0,
        },
    }
    known = {
        "benchmark": benchmark,
        "setting": setting,
        "questions": 100,
        "documents": 1900,
        "systems": systems,
    }
    return {**known, "model": MODEL, "source": "nq.jsonl", "date": "2026-11-25", **changes}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_reports_are_found_at_any_depth_and_dated(tmp_path):
    write(tmp_path / "a" / "b" / "report.json", report())
    file = write(tmp_path / "c.json", report("musique", "oracle"))
    os.utime(file, (1_700_000_000, 1_700_000_000))
    found = read_reports([tmp_path / "a", file], MODEL)
    assert [(row["benchmark"], row["setting"]) for row in found] == [("nq", "normal"), ("musique", "oracle")]
    assert found[1]["date"] == "2023-11-14"
    assert read_reports([], MODEL) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (report(model="cd" * 32), "was measured on another model"),
        ({key: value for key, value in report().items() if key != "model"}, r"lacks \['model'\]"),
        ("{", "damaged"),
        ("[]", "lacks"),
    ],
)
def test_what_is_not_of_this_model_is_refused(tmp_path, content, told):
    file = write(tmp_path / "report.json", content)
    with pytest.raises(ValueError, match=told):
        read_reports([file], MODEL)


def test_two_reports_on_one_benchmark_and_paths_without_any(tmp_path):
    files = [write(tmp_path / name / "report.json", report()) for name in "ab"]
    with pytest.raises(ValueError, match="second report on nq normal"):
        read_reports(files, MODEL)
    with pytest.raises(FileNotFoundError, match="holds no report.json"):
        read_reports([tmp_path / "nowhere"], MODEL)


def test_the_table_by_hand():
    lines = results_table([report()]).splitlines()
    assert lines[2] == (
        "| Natural Questions | normal | 100 | clara | 34.5 [30.0, 40.0] | 50.0 [45.0, 55.0] "
        "| 34.5 [30.0, 40.0] | 50.0 [45.0, 55.0] @5 | 120 |"
    )
    assert lines[3].endswith("| text | 50.0 [45.0, 55.0] | 50.0 [45.0, 55.0] | 50.0 [45.0, 55.0] | – | 800 |")
    assert lines[4].count(NOT_MEASURED) == 5 and "oracle" in lines[4]
    assert len(lines) == 2 + 2 + 7
    assert len({line.count(" | ") for line in lines}) == 1


def test_without_reports_nothing_is_measured(tmp_path):
    assert results_table([]).count(NOT_MEASURED) == 4 * 2 * 5
    assert model_index([]) == []
    write_eval_results(tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_the_model_index_holds_this_system_alone():
    results = model_index([report(), report("2wiki", "oracle")])
    assert [(row.dataset_type, row.metric_type, row.metric_value) for row in results] == [
        ("google-research-datasets/nq_open", "exact_match", 34.5),
        ("google-research-datasets/nq_open", "token_f1", 50.0),
        ("google-research-datasets/nq_open", "cover_exact_match", 34.5),
        ("xanhho/2WikiMultihopQA", "exact_match", 34.5),
        ("xanhho/2WikiMultihopQA", "token_f1", 50.0),
        ("xanhho/2WikiMultihopQA", "cover_exact_match", 34.5),
    ]
    assert results[3].dataset_name == "2WikiMultihopQA (oracle, 100 questions)"
    with pytest.raises(ValueError, match="no system 'other'"):
        model_index([report()], "other")


def test_settings_of_one_benchmark_stay_apart_in_the_head():
    results = model_index([report(), report("nq", "oracle")])
    (index,) = eval_results_to_model_index("model", results)
    names = [entry["dataset"]["name"] for entry in index["results"]]
    assert names == ["Natural Questions (normal, 100 questions)", "Natural Questions (oracle, 100 questions)"]


def test_eval_results_are_read_back_by_the_hubs_own_reader(tmp_path):
    write_eval_results(tmp_path, [report(), report("hotpotqa", "oracle")])
    names = sorted(file.name for file in (tmp_path / ".eval_results").iterdir())
    assert names == ["hotpotqa-oracle.yaml", "nq-normal.yaml"]
    rows = yaml.safe_load((tmp_path / ".eval_results" / "nq-normal.yaml").read_text(encoding="utf-8"))
    entries = parse_eval_result_entries(rows)
    assert [(entry.task_id, entry.value) for entry in entries] == [
        ("nq_normal_exact_match", 34.5),
        ("nq_normal_token_f1", 50.0),
        ("nq_normal_cover_exact_match", 34.5),
    ]
    assert entries[0].dataset_id == "google-research-datasets/nq_open" and entries[0].date == "2026-11-25"
    assert "100 questions of nq.jsonl, 1900 documents" in entries[0].notes
