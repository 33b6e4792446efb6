"""How tables, intervals and differences are written."""

from clara.evaluation.tables import difference, markdown_table, nats, percent

INTERVAL = {"mean": 0.5, "low": 0.25, "high": 0.751}


def test_a_table_has_a_header_and_a_rule():
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_numbers():
    assert percent(INTERVAL) == "50.0 [25.0, 75.1]"
    assert nats(INTERVAL) == "0.50 [0.25, 0.75]"
    assert percent(None) == nats(None) == "–"
    compared = {"difference": -0.1, "low": -0.2, "high": 0.05, "p_value": 0.25}
    assert difference(compared) == "-10.0 [-20.0, +5.0], p = 0.2500"
    assert difference(compared, 1, 2) == "-0.10 [-0.20, +0.05], p = 0.2500"
