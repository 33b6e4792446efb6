"""k at test time: ranked once, read for every k."""

import argparse

import pytest
from clara.evaluation.experiments import k_at_test
from clara.evaluation.sample_rows import question_rows
from pictures import assert_shows


def arguments(**kwargs):
    fields = {"files": None, "limit": 4, "ks": [1, 3, 6], "pool_size": 6, "max_new_tokens": 2}
    return argparse.Namespace(**{**fields, "batch_size": 3, "seed": 0, **kwargs})


def test_recall_is_full_when_the_whole_pool_is_read(model, tmp_path):
    model.config.retrieval_top_k = 3
    result = k_at_test.measure(arguments(), model)
    recall = {name: row["recall"]["mean"] for name, row in result["means"].items()}
    assert recall["k = 6"] == 1
    assert recall["k = 1"] <= recall["k = 3"] <= 1
    assert result["reference"] == "k = 3"
    assert result["questions"] == len(question_rows(None, 4)[0])
    page = k_at_test.render(result)
    assert "| k = 6 | 100.0 [100.0, 100.0]" in page
    percent = [100 * value for value in recall.values()]
    assert_shows(k_at_test.plot, result, tmp_path / "picture.png", percent)


def test_a_k_below_one_is_refused(shared_model):
    with pytest.raises(ValueError, match="`--ks` must be at least 1"):
        k_at_test.measure(arguments(ks=[0, 2]), shared_model)
