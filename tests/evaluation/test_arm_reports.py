"""Comparing arms: recipes by stage, and where a page says what was done."""

import pytest
from arm_helpers import options
from clara.evaluation import arm_reports
from clara.evaluation.experiments import joint_training
from clara.evaluation.training_arms import Arm


def test_recipes_must_name_their_stage(base, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rate: 0.1\n")
    with pytest.raises(ValueError, match="must be the only recipe of its stage"):
        arm_reports.make_plan(options(base, tmp_path, joint_training, "--recipes", str(recipe)), "x")
    with pytest.raises(ValueError, match="`--steps` must be at least 1"):
        arm_reports.make_plan(options(base, tmp_path, joint_training, "--steps", "0"), "x")


def test_recipes_are_kept_by_stage(base, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("stage: end_to_end\nlearning_rate: 0.1\n")
    plan = arm_reports.make_plan(options(base, tmp_path, joint_training, "--recipes", str(recipe)), "x")
    assert plan.recipes["end_to_end"]["learning_rate"] == 0.1
    assert plan.folder == tmp_path / "runs" / "x"
    with pytest.raises(ValueError, match="must be the only recipe"):
        arm_reports.make_plan(options(base, tmp_path, joint_training, "--recipes", *[str(recipe)] * 2), "x")


def test_arms_without_training_differ_only_by_the_reasoner(base, tmp_path):
    arguments = options(base, tmp_path, joint_training)
    arms = {"kept": Arm(), "copied": Arm(copy_compressor=True)}
    result = arm_reports.compare(arguments, arms, "kept", "none")
    assert (
        result["differences"]["copied"]["loss"]["difference"] == 0
    )  # adapters of a new model change nothing
    assert result["start"] is None
    page = arm_reports.render_arms(result)
    assert "the shipped tiny rows" in page
    assert "| copied |" in page
