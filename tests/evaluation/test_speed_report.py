"""The report: sections of JSON values, tables that say what was needed and whether it was reached."""

import json

import torch
from clara.evaluation.speed import report
from clara.evaluation.speed.report import Comparison, head, ratio, section, to_markdown, variant

SECTION = section(
    "x",
    "What was timed",
    [variant("fast", [3.0, 1.0, 2.0], tokens=40), variant("slow", [9.0, 6.0, 5.0])],
    [ratio("slow against fast", [9.0, 6.0, 5.0], [3.0, 1.0, 2.0], 3.5), ratio("other", [2.0], [1.0])],
    {"tokens read": {"memories": 148, "text": 1062}, "share": 0.123456},
)


def test_a_variant_takes_the_median_round():
    fast = SECTION["variants"][0]
    assert fast["median_seconds"] == 2.0 and fast["seconds"] == [3.0, 1.0, 2.0]
    assert fast["rates"] == {"tokens": 20.0}


def test_a_ratio_compares_round_by_round():
    found = ratio("x", slow=[6.0, 8.0, 30.0], fast=[2.0, 4.0, 5.0], needed=2.5)
    assert (found["median"], found["minimum"], found["maximum"]) == (3.0, 2.0, 6.0)
    assert found["reached"] is True
    assert ratio("x", [2.0], [1.0], needed=2.5)["reached"] is False
    assert ratio("x", [2.0], [1.0])["reached"] is None


def test_a_ratio_allows_for_unequal_work():
    assert ratio("x", slow=[8.0], fast=[4.0], work=0.5)["median"] == 4.0


def test_the_first_variant_is_compared_with_the_others(monkeypatch):
    seconds = {"c": [2.0], "b": [3.0], "a": [1.0]}
    monkeypatch.setattr(report, "measure", lambda runs, repeats, device: seconds)
    runs = dict.fromkeys("abc")
    found = Comparison("x", "X", runs, {"c": 1.5}, {"rows": 6}, {}).section(1, torch.device("cpu"))
    assert [item["rates"] for item in found["variants"]] == [{"rows": 6.0}, {"rows": 2.0}, {"rows": 3.0}]
    assert [(item["name"], item["median"]) for item in found["ratios"]] == [
        ("b against a", 3.0),
        ("c against a", 2.0),
    ]
    assert [item["needed"] for item in found["ratios"]] == [None, 1.5]


def test_the_tables_say_what_was_reached():
    page = to_markdown(SECTION)
    assert "| fast | 2 | 20 |" in page
    assert "| slow | 6 |  |" in page
    assert "| slow against fast | 3.00 | 2.50 | 6.00 | ≥ 3.5 | **no** |" in page
    assert "| other | 2.00 | 2.00 | 2.00 |  |  |" in page
    assert "- tokens read: memories 148, text 1062" in page and "- share: 0.1235" in page
    assert to_markdown(section("x", "X", facts={"a": 1})) == "## X\n\n- a: 1\n"


def test_sections_are_json_values():
    assert json.loads(json.dumps(SECTION)) == SECTION


def test_a_busy_machine_is_told():
    quiet, busy = ({"processor": "a chip", "contended": flag} for flag in (False, True))
    assert "Contended run" in head(busy) and "Contended run" not in head(quiet)
    assert "processor a chip" in head(quiet)
