"""The scaling curve: trends by hand, refused points, the whole on checkpoints of a tiny base."""

import argparse
import json
import math

import numpy as np
import pytest
from clara.evaluation.experiments import scaling_curve
from clara.modeling_clara import ClaraForRetrievalGeneration
from pictures import assert_shows


def test_a_power_law_is_found_and_carried_on():
    examples = [100, 1000, 10_000]
    losses = [[4 * count**-0.1] * 5 for count in examples]
    found = scaling_curve.trend(examples, losses, [100_000], "loss")
    assert found["slope"]["mean"] == pytest.approx(-0.1)
    assert found["ahead"]["100000"]["mean"] == pytest.approx(4 * 100_000**-0.1)
    assert found["ahead"]["100000"]["low"] == pytest.approx(found["ahead"]["100000"]["high"])


def test_scores_follow_a_line_over_the_logarithm_and_end_at_one():
    values = [[0.0, 0.2], [0.2, 0.4]]  # means 0.1 and 0.3
    found = scaling_curve.trend([10, 100], values, [1000, 10**9], "token_f1")
    assert found["slope"]["mean"] == pytest.approx(0.2 / math.log(10))
    assert found["ahead"]["1000"]["mean"] == pytest.approx(0.5)
    assert found["ahead"]["1000"]["low"] == pytest.approx(0.4)  # both draws the first question
    assert found["ahead"]["1000000000"]["mean"] == 1.0


@pytest.mark.parametrize("points", [["5"], ["0=a", "1=b"], ["5=a"], ["5=a", "5=b"], ["x=a", "6=b"], ["5="]])
def test_wrong_points_are_refused(points):
    with pytest.raises(ValueError, match="`--points`"):
        scaling_curve.parse_points(points)


def test_points_are_sorted():
    assert list(scaling_curve.parse_points(["900=b", "20=a"]).items()) == [(20, "a"), (900, "b")]


def test_checkpoints_are_measured_on_the_same_questions(base, tmp_path):
    for name in ("a", "b"):
        ClaraForRetrievalGeneration.from_base(base).save_pretrained(tmp_path / name)
    parser = argparse.ArgumentParser()
    scaling_curve.add_arguments(parser)
    points = [f"20={tmp_path / 'b'}", f"10={tmp_path / 'a'}"]
    arguments = parser.parse_args(
        ["--points", *points, "--limit", "3", "--max-new-tokens", "2", "--device", "cpu", "--ahead", "10"]
    )
    result = scaling_curve.measure(arguments)
    assert result["examples"] == [10, 20] and result["questions"] == 3
    assert set(result["means"]) == {"10", "20"}
    page = scaling_curve.render(result)
    assert "| 200 |" in page
    losses = [row["loss"]["mean"] for row in result["means"].values()]
    assert_shows(scaling_curve.plot, result, tmp_path / "picture.png", losses)


def test_the_seed_is_that_of_the_intervals():
    values = np.random.default_rng(0).random((2, 50))  # few values would give the same percentiles
    one, again, other = (scaling_curve.trend([10, 100], values, [1000], "token_f1", s) for s in (1, 1, 2))
    assert one == again and abs(one["slope"]["low"] - other["slope"]["low"]) > 1e-6
    assert one["slope"]["mean"] == pytest.approx(other["slope"]["mean"])


def test_gold_rows_of_files_or_of_the_samples(tmp_path):
    records, name = scaling_curve.gold_rows(None, 5)
    assert (len(records), name) == (5, "sample corpus")
    for record in records:
        assert record.answers[0].lower() in " ".join(record.documents).lower()
        assert record.positives == tuple(range(len(record.documents)))
    row = {"question": "who", "golden_answers": ["Ada"], "docs": ["Ada wrote."]}
    for number in (1, 2):
        lines = [json.dumps({**row, "pos_index": positives}) for positives in ([0], [], [0])]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    files = [str(tmp_path / "1.jsonl"), str(tmp_path / "2.jsonl")]
    records, name = scaling_curve.gold_rows(files, 2)
    assert (len(records), name) == (2, "1.jsonl, 2.jsonl")  # two of each file, one of which has no gold
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="no question of empty.jsonl names positives"):
        scaling_curve.gold_rows([str(tmp_path / "empty.jsonl")], 2)
