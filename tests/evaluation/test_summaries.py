"""Means, paired differences and their tables."""

import pytest
from clara.evaluation.summaries import differences_table, error_bars, means_table, summarize

CONDITIONS = {
    "first": {"loss": [1.0, 3.0, 2.0], "token_f1": [0.0, 0.5, 1.0]},
    "second": {"loss": [2.0, 4.0, 3.0], "token_f1": [0.0, 0.5, 1.0]},
    "text": {"token_f1": [1.0, 1.0, 1.0]},
}


def test_means_and_paired_differences():
    summary = summarize(CONDITIONS, "first", seed=0)
    assert summary["means"]["first"]["loss"]["mean"] == 2
    assert list(summary["differences"]) == ["second", "text"]
    gap = summary["differences"]["second"]["loss"]
    assert (gap["difference"], gap["low"], gap["high"]) == (1, 1, 1)
    assert summary["differences"]["text"]["token_f1"]["difference"] == 0.5


def test_tables_show_what_there_is():
    summary = summarize(CONDITIONS, "first", seed=0)
    means = means_table(summary, ("loss", "token_f1", "recall"))
    assert means.splitlines()[0] == "| condition | loss (nats) | F1 |"
    assert "| text | – | 100.0 [100.0, 100.0] |" in means
    differences = differences_table(summary, ("loss",))
    assert "| second | +1.00 [+1.00, +1.00]" in differences
    assert "| text | – |" in differences


def test_bars_are_lengths():
    heights, (below, above) = error_bars([{"mean": 0.5, "low": 0.4, "high": 0.8}])
    assert heights == [50]
    assert below == [pytest.approx(10)]
    assert above == [pytest.approx(30)]
