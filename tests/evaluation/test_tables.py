"""How tables and intervals are written."""

from clara.evaluation.tables import markdown_table, percent

INTERVAL = {"mean": 0.5, "low": 0.25, "high": 0.751}


def test_a_table_has_a_header_and_a_rule():
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_numbers():
    assert percent(INTERVAL) == "50.0 [25.0, 75.1]"
    assert percent(None) == "–"
