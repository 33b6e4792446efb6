"""Several rates at once against one: refused arguments, and the whole on checkpoints of a tiny base."""

import argparse

import pytest
import torch
from clara.evaluation.experiments import nested_rates
from clara.modeling_clara import ClaraForRetrievalGeneration
from pictures import assert_shows


@pytest.mark.parametrize("models", [["a=x"], ["a=x", "a=y"], ["a", "b=y"], ["=x", "b=y"], ["a=", "b=y"]])
def test_wrong_models_are_refused(models):
    with pytest.raises(ValueError, match="`--models`"):
        nested_rates.parse_models(models)


def test_a_path_may_hold_an_equals_sign_and_the_order_stays():
    assert list(nested_rates.parse_models(["b=x=1", "a=y"]).items()) == [("b", "x=1"), ("a", "y")]


def test_checkpoints_are_read_at_each_rate(base, tmp_path):
    torch.manual_seed(0)
    model = ClaraForRetrievalGeneration.from_base(base, pooling="mean")
    model.save_pretrained(tmp_path / "one")
    for parameter in model.decoder.parameters():  # another generator: its answers must cost another loss
        if parameter.requires_grad:
            parameter.data += 0.05
    model.save_pretrained(tmp_path / "other")
    parser = argparse.ArgumentParser()
    nested_rates.add_arguments(parser)
    own = model.config.compression_rate
    models = [f"one={tmp_path / 'one'}", f"same={tmp_path / 'one'}", f"other={tmp_path / 'other'}"]
    options = ["--limit", "3", "--max-new-tokens", "0", "--device", "cpu", "--rates", str(own), str(4 * own)]
    result = nested_rates.measure(parser.parse_args(["--models", *models, *options]))
    assert result["questions"] == 3 and list(result["rates"]) == [str(own), str(4 * own)]
    for summary in result["rates"].values():
        assert summary["reference"] == "one"
        assert summary["differences"]["same"]["loss"]["difference"] == 0.0
        assert summary["differences"]["other"]["loss"]["difference"] != 0.0
    full, one = (summary["means"]["one"]["loss"]["mean"] for summary in result["rates"].values())
    assert full != one
    page = nested_rates.render(result)
    assert f"## {4 * own} tokens a vector" in page and "| other |" in page
    assert_shows(nested_rates.plot, result, tmp_path / "picture.png", [full, one])
