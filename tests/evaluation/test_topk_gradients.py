"""The exact gradient by hand and by finite differences; what each estimator is known to do."""

import argparse
import math

import pytest
import torch
from clara.evaluation.experiments import topk_gradients as experiment
from pictures import assert_shows


def options(**changes):
    parser = argparse.ArgumentParser()
    experiment.add_arguments(parser)
    arguments = parser.parse_args([])
    vars(arguments).update(changes)
    return arguments


def test_choice_probabilities_by_hand():
    logits = torch.tensor([math.log(1.0), math.log(2.0), math.log(3.0)])
    found = experiment.slot_log_probabilities(logits, torch.tensor([[2, 0], [0, 1]])).exp()
    assert torch.allclose(found, torch.tensor([[3 / 6, 1 / 3], [1 / 6, 2 / 5]]))


def test_exact_gradient_of_two_documents_by_hand():
    # k = 1: J = p·L0 + (1 - p)·L1 with p = sigmoid((s0 - s1) / t), so dJ/ds0 = p (1 - p) (L0 - L1) / t
    scores, memory, target = torch.tensor([0.5, 0.4]), torch.tensor([[1.0], [3.0]]), torch.tensor([0.0])
    expected, gradient = experiment.exact_gradient(scores, memory, target, k=1, temperature=0.1)
    p = 1 / (1 + math.exp(-1))
    assert expected.item() == pytest.approx(p * 1 + (1 - p) * 9, rel=1e-5)
    assert gradient[0].item() == pytest.approx(p * (1 - p) * (1 - 9) / 0.1, rel=1e-4)
    assert gradient.sum().item() == pytest.approx(0, abs=1e-4)


def test_exact_gradient_agrees_with_finite_differences():
    scores, memory, target = experiment.problem(5, 0.1, torch.Generator().manual_seed(1))
    scores, memory, target = scores.double(), memory.double(), target.double()
    _, gradient = experiment.exact_gradient(scores, memory, target, k=2, temperature=0.2)
    for i in range(5):
        step = torch.zeros(5, dtype=torch.double)
        step[i] = 1e-5
        up, _ = experiment.exact_gradient(scores + step, memory, target, 2, 0.2)
        down, _ = experiment.exact_gradient(scores - step, memory, target, 2, 0.2)
        assert gradient[i].item() == pytest.approx((up - down).item() / 2e-5, rel=1e-4)


def test_score_function_is_unbiased():
    torch.manual_seed(0)
    problem = experiment.problem(4, 0.1, torch.Generator().manual_seed(2))
    cosine, bias, spread, _, _ = experiment.compare(*problem, 2, 0.2, "score_function", 20_000)
    assert cosine > 0.99
    assert bias < 6 * spread / math.sqrt(20_000)


def test_straight_through_chooses_as_the_discrete_one_and_does_not_vary():
    problem = experiment.problem(6, 0.05, torch.Generator().manual_seed(3))
    _, _, spread, overlap, mass = experiment.compare(*problem, 3, 0.05, "straight_through", 100)
    assert (spread, overlap) == (0, 1)
    assert 1 / 6 < mass < 1


def test_gumbel_varies_and_approaches_the_discrete_choice_when_cold():
    torch.manual_seed(0)
    problem = experiment.problem(6, 0.05, torch.Generator().manual_seed(3))
    _, _, spread, warm, _ = experiment.compare(*problem, 2, 0.5, "gumbel", 400)
    _, _, _, cold, _ = experiment.compare(*problem, 2, 1e-4, "gumbel", 400)
    assert spread > 0
    assert warm < cold == 1


def test_result_page_and_picture(tmp_path):
    arguments = options(pools=[3], ks=[1, 4], temperatures=[0.1, 1.0], problems=2, draws=20)
    result = experiment.measure(arguments)
    assert len(result["rows"]) == 2 * len(experiment.ESTIMATORS)  # k = 4 does not fit in a pool of 3
    assert experiment.measure(arguments) == result
    assert "| 3 | 1 | 0.1 | straight_through |" in experiment.render(result)
    cosines = [row["cosine"] for row in result["rows"]]
    assert_shows(experiment.plot, result, tmp_path / "x.png", cosines)
