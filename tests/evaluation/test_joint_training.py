"""Joint training on a tiny base: what is frozen stays as it was, page and picture."""

import pytest
from arm_helpers import options
from clara.evaluation.experiments import joint_training
from pictures import assert_shows


@pytest.mark.slow
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
    losses = [row["loss"]["mean"] for row in means.values()]
    assert_shows(joint_training.plot, result, tmp_path / "picture.png", losses)


def test_only_the_arms_that_say_so_see_relevance_labels():
    weights = {
        name: [phase.options["contrastive_weight"] for phase in arm.phases]
        for name, arm in joint_training.ARMS.items()
    }
    assert weights.pop("supervised") == weights.pop("joint and supervised") == [1.0]
    assert set(map(tuple, weights.values())) == {(), (0.0,)}
