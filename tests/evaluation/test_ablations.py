"""Ablations on a tiny base: groups, arms with fields that exist, page and picture."""

import pytest
from arm_helpers import options
from clara.evaluation.experiments import ablations
from clara.train.arguments import ClaraTrainingConfig
from clara.train.recipe import ScriptArguments
from pictures import assert_shows


@pytest.mark.slow
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
    arms = [row["loss"]["mean"] for group in result.values() for row in group["means"].values()]
    assert_shows(ablations.plot, result, tmp_path / "picture.png", arms)


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
