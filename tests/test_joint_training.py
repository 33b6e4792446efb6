"""Comparisons of trained arms on a tiny base: what is frozen stays, pages and pictures."""

import argparse

import pytest
from clara.evaluation import arm_reports
from clara.evaluation.experiments import ablations, joint_training
from clara.train.arguments import ClaraTrainingConfig
from clara.train.recipe import ScriptArguments


def options(base, tmp_path, module, *words):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    small = ["--base", base, "--runs", str(tmp_path / "runs"), "--steps", "1", "--limit", "4"]
    return parser.parse_args([*small, "--pool-size", "6", "--max-new-tokens", "2", "--device", "cpu", *words])


def test_a_frozen_reasoner_retrieves_as_the_start(base, tmp_path):
    arguments = options(base, tmp_path, joint_training, "--arms", "start", "generator alone", "supervised")
    result = joint_training.measure(arguments)
    means = result["means"]
    assert list(means) == ["start", "generator alone", "supervised"]
    assert result["reference"] == "generator alone"
    for cut in (1, 3, 5):
        assert means["start"][f"recall@{cut}"] == means["generator alone"][f"recall@{cut}"]
    assert means["start"]["loss"]["mean"] != means["generator alone"]["loss"]["mean"]
    assert len(list((tmp_path / "runs" / "memories").iterdir())) == 1  # compressed once for all arms
    page = joint_training.render(result)
    assert "| supervised |" in page and "recall@3" in page
    joint_training.plot(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_groups_of_ablations(base, tmp_path):
    words = ("--groups", "estimator", "reasoner-start")
    result = ablations.measure(options(base, tmp_path, ablations, *words))
    assert list(result) == ["estimator", "reasoner-start"]
    assert result["estimator"]["reference"] == "straight-through"
    assert result["reasoner-start"]["arms"]["random"]["phases"][0]["options"] == {
        "starts": {"query_reasoner": "fresh"}
    }
    page = ablations.render(result)
    assert page.count("## ") == 2
    ablations.plot(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


@pytest.mark.parametrize("group", ablations.GROUPS)
def test_every_arm_has_fields_that_exist(group, tmp_path):
    assert ablations.TITLES[group]
    known = {*ScriptArguments.__dataclass_fields__, *ClaraTrainingConfig.__dataclass_fields__}
    arms = ablations.GROUPS[group]
    assert len(arms) > 1
    for arm in arms.values():
        for phase in arm.phases:
            assert set(phase.options) <= known
            kept = {k: v for k, v in phase.options.items() if k != "model_fields"}
            ClaraTrainingConfig(output_dir=str(tmp_path), stage=phase.stage, use_cpu=True, **kept)


def test_recipes_must_name_their_stage(base, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rate: 0.1\n")
    with pytest.raises(ValueError, match="must be the only recipe of its stage"):
        arm_reports.make_plan(options(base, tmp_path, joint_training, "--recipes", str(recipe)), "x")
    with pytest.raises(ValueError, match="`--steps` must be at least 1"):
        arm_reports.make_plan(options(base, tmp_path, joint_training, "--steps", "0"), "x")
