"""The report of predictions whose scores are known by hand, and its page and pictures."""

import json
from dataclasses import replace

import pytest
from clara.evaluation.benchmarks import Benchmark, Example
from clara.evaluation.plots import plot_quality, spread
from clara.evaluation.reports import make_report, score_predictions, to_markdown
from clara.evaluation.systems import Prediction
from clara.evaluation.tables import write_report

EXAMPLES = (
    Example("0", "q0", ("Paris",), (0, 1, 2), (1,)),
    Example("1", "q1", ("Rome", "Roma"), (0, 1, 2), (0, 2)),
    Example("2", "q2", ("Oslo",), (0, 1, 2), ()),
)
BENCHMARK = Benchmark("nq", "normal", ("a", "b", "c"), EXAMPLES, skipped=("3",))
RIGHT = [
    Prediction("0", "Paris", (1, 0), (0.9, 0.1), 40),
    Prediction("1", "It is Roma", (2, 0), (0.9, 0.1), 44),
    Prediction("2", "Oslo", (0, 1), (0.9, 0.1), 48),
]
CLOSED = [Prediction(str(i), "unknown", (), (), 20) for i in range(3)]


@pytest.fixture(scope="module")
def report():
    predictions = {"clara": RIGHT, "closed_book": CLOSED}
    return make_report(BENCHMARK, predictions, {"clara": 512.0, "closed_book": 0.0}, ks=(1, 2))


def test_scores_by_hand():
    scores = score_predictions(EXAMPLES, RIGHT, ks=(1, 2))
    assert scores["exact_match"] == [1, 0, 1]
    assert scores["cover_exact_match"] == [1, 1, 1]
    assert scores["cover_bag_of_tokens"] == [1, 0, 1]
    assert scores["recall@1"] == [1, 0.5]  # the third question names no positives
    assert scores["recall@2"] == [1, 1]


def test_report_values(report):
    clara, closed = report["systems"]["clara"], report["systems"]["closed_book"]
    assert clara["metrics"]["exact_match"]["mean"] == pytest.approx(2 / 3)
    assert clara["metrics"]["recall@1"] == {"mean": 0.75, "low": 0.5, "high": 1.0, "questions": 2}
    assert clara["tokens_read"] == 44
    assert clara["bytes_per_passage"] == 512
    assert closed["metrics"]["exact_match"]["mean"] == 0
    assert "recall@1" not in closed["metrics"]
    rows = {row["metric"]: row for row in report["comparisons"]}
    assert rows["cover_exact_match"]["difference"] == -1
    assert rows["exact_match"]["difference"] == pytest.approx(-2 / 3)
    assert rows["exact_match"]["reference"] == "clara"
    assert "recall@1" not in rows  # the other finds nothing


def test_what_two_systems_find_is_compared_question_by_question():
    turned = [replace(said, documents=said.documents[::-1]) for said in RIGHT]
    rows = make_report(BENCHMARK, {"clara": RIGHT, "other": turned}, {"clara": 1, "other": 1}, ks=(1, 2))
    (row,) = (row for row in rows["comparisons"] if row["metric"] == "recall@1")
    assert row["difference"] == -0.5  # the first question's passage comes second now


def test_page(report):
    page = to_markdown(report, "clara evaluate --benchmark nq")
    assert "| clara | 66.7 [" in page
    assert "| closed_book | 0.0 [0.0, 0.0]" in page
    assert "    clara evaluate --benchmark nq" in page
    assert "rows 3." in page
    widths = {
        line.count("|") for line in page.splitlines() if line.startswith("| clara |") or "| system" in line
    }
    assert len(widths) == 2  # two tables, each with one width


def test_files(report, tmp_path):
    write_report(tmp_path / "new" / "report", report, "page")
    assert json.loads((tmp_path / "new" / "report.json").read_text()) == report
    assert (tmp_path / "new" / "report.md").read_text() == "page"


@pytest.mark.parametrize("cost", ["tokens_read", "bytes_per_passage"])
def test_plots(report, tmp_path, cost):
    pytest.importorskip("matplotlib")
    plot_quality(report, cost, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_points_of_one_cost_stand_beside_each_other():
    places = spread({"a": 100.0, "b": 100.0, "c": 101.0, "far": 200.0, "zero": 0.0})
    assert places["far"] == 200 and places["zero"] == 0
    assert places["a"] < places["b"] < places["c"]
    assert places["b"] == 100
    assert places["a"] > 90
    assert places["c"] < 110


def test_bad_input():
    with pytest.raises(ValueError, match="ids differ"):
        score_predictions(EXAMPLES, RIGHT[:2])
