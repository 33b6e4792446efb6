"""The report: JSON with every number, tables that say what was needed and whether it was reached."""

import json

from clara.evaluation.speed.report import (
    Section,
    as_document,
    contended,
    head,
    line,
    section_markdown,
    write_report,
)
from clara.evaluation.speed.timing import ratio

FACTS = {"processor": "a chip", "processors": 2, "load_average": 0.4}
SECTION = Section(
    "x",
    "What was timed",
    [line("fast", [3.0, 1.0, 2.0], {"tokens": 40.0}), line("slow", [9.0, 6.0, 5.0])],
    [ratio("slow against fast", [9.0, 6.0, 5.0], [3.0, 1.0, 2.0], 3.5), ratio("other", [2.0], [1.0])],
    {"tokens read": {"memories": 148, "text": 1062}, "share": 0.123456},
)


def test_a_line_takes_the_median_round():
    found = SECTION.lines[0]
    assert found.median == 2.0
    assert found.rates == {"tokens": 20.0}


def test_the_tables_say_what_was_reached():
    page = section_markdown(SECTION)
    assert "| fast | 2 | 20 |" in page
    assert "| slow | 6 |  |" in page
    assert "| slow against fast | 3.00 | 2.50 | 6.00 | ≥ 3.5 | **no** |" in page
    assert "| other | 2.00 | 2.00 | 2.00 |  |  |" in page
    assert "- tokens read: memories 148, text 1062" in page and "- share: 0.1235" in page


def test_the_document_holds_every_round():
    document = json.loads(json.dumps(as_document(FACTS, [SECTION])))
    assert document["environment"]["contended"] is False
    (section,) = document["sections"]
    assert section["variants"][0]["seconds"] == [3.0, 1.0, 2.0]
    assert section["variants"][0]["median_seconds"] == 2.0
    assert section["ratios"][0]["reached"] is False and section["ratios"][1]["reached"] is None


def test_a_busy_machine_is_told():
    busy = {**FACTS, "load_average": 1.5}
    assert contended(busy) and not contended(FACTS) and not contended({**FACTS, "load_average": None})
    assert "Contended run" in head(busy) and "Contended run" not in head(FACTS)
    assert "processor a chip" in head(FACTS)


def test_both_files_are_written(tmp_path):
    write_report(tmp_path / "new" / "folder", {"a": 1}, "# page\n")
    assert json.loads((tmp_path / "new" / "folder" / "bench.json").read_text()) == {"a": 1}
    assert (tmp_path / "new" / "folder" / "bench.md").read_text() == "# page\n"
