"""Reports in, tables and model-index out; what is missing, foreign or damaged is told."""

import json

import pytest
from clara.hub.results import (
    model_index,
    read_reports,
    results_table,
)
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
    return {**known, "model": MODEL, "source": "nq.jsonl", **changes}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_reports_are_found_at_any_depth(tmp_path):
    write(tmp_path / "a" / "b" / "report.json", report())
    file = write(tmp_path / "c.json", report("musique", "oracle"))
    found = read_reports([tmp_path / "a", file], MODEL)
    assert [(row["benchmark"], row["setting"]) for row in found] == [("nq", "normal"), ("musique", "oracle")]
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
    assert len(lines) == 2 + 2
    assert len({line.count(" | ") for line in lines}) == 1


def test_the_control_is_no_row_of_the_table():
    with_it = report()
    with_it["systems"] = {**with_it["systems"], "clara_shuffled": with_it["systems"]["clara"]}
    assert results_table([with_it]) == results_table([report()])


def test_without_reports_nothing_is_measured():
    assert len(results_table([]).splitlines()) == 2
    assert model_index([]) == []


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
