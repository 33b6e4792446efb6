"""The contrastive loss of retrieval, by hand."""

import math

import pytest
import torch
from clara.train.losses import contrastive_loss, retrieval_distillation
from torch import tensor


def test_one_positive_by_hand():
    """Scores 0.3 and 0.1 at temperature 0.1: the softmax gives the first e^3 / (e^3 + e^1)."""
    loss = contrastive_loss(tensor([[0.3, 0.1]]), tensor([[True, False]]), 0.1)
    assert loss.item() == pytest.approx(-math.log(math.exp(3) / (math.exp(3) + math.exp(1))), rel=1e-6)


def test_several_positives_share_the_mass():
    """Equal scores: two of four documents are positive, so they have half of the mass."""
    loss = contrastive_loss(torch.zeros(1, 4), tensor([[True, False, True, False]]))
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


def test_each_of_several_positives_is_to_be_near():
    """Scores (2, 0, 1) and two positives: log(1 + e^(1-2)) and log(1 + e^(1-0)), not helped by each other."""
    scores, positives = tensor([[2.0, 0.0, 1.0]]), tensor([[True, True, False]])
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert contrastive_loss(scores, positives, 1.0, wanted="each").item() == pytest.approx(expected)
    one = (tensor([[2.0, 0.0, 9.0]]), tensor([[True, False, False]]), 1.0, tensor([[True, True, False]]))
    assert (
        contrastive_loss(*one, wanted="each")
        == contrastive_loss(*one)
        == pytest.approx(math.log(1 + math.exp(-2)))
    )


def test_each_question_counts_once_however_many_positives_it_has():
    scores = tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
    both, one = tensor([True, True, False]), tensor([True, False, False])
    alone = [
        contrastive_loss(scores[i : i + 1], kind.unsqueeze(0), 1.0, wanted="each").item()
        for i, kind in enumerate((both, one))
    ]
    loss = contrastive_loss(scores, torch.stack([both, one]), 1.0, wanted="each")
    assert loss.item() == pytest.approx(sum(alone) / 2)


def test_distillation_is_the_divergence_from_the_teacher_by_hand():
    """Teacher (1, 0) at 0.5 and student (0, 1) at 0.25: p log(p / q) over both passages."""
    p, q = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(4))
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    student, teacher = tensor([[0.0, 1.0]] * 3), tensor([[1.0, 0.0]] * 3)
    assert retrieval_distillation(student, teacher, 0.25, 0.5).item() == pytest.approx(expected)
    assert retrieval_distillation(0.25 * teacher, 0.5 * teacher, 0.25, 0.5).item() == pytest.approx(
        0, abs=1e-7
    )


def test_a_pool_of_positives_alone_teaches_nothing():
    scores = tensor([[0.5, 0.1]], requires_grad=True)
    loss = contrastive_loss(scores, torch.ones(1, 2, dtype=torch.bool), wanted="each")
    loss.backward()
    assert loss.item() == 0.0 and (scores.grad == 0).all()


def test_questions_without_positives_are_left_out():
    scores = tensor([[0.0, 0.0], [0.9, 0.1]])
    loss = contrastive_loss(scores, tensor([[True, False], [False, False]]))
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    nothing = contrastive_loss(scores.requires_grad_(), torch.zeros(2, 2, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0.0 and (scores.grad == 0).all()


def test_padding_of_a_pool_does_not_count():
    scores, positives = tensor([[0.0, 0.0, 5.0]]), tensor([[True, False, False]])
    loss = contrastive_loss(scores, positives, mask=tensor([[True, True, False]]))
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


def test_the_gradient_pulls_positives_up():
    """d loss / d s_i is (p_i - 1[i positive]) / t with one positive."""
    scores = tensor([[0.2, 0.1, 0.0]], requires_grad=True)
    contrastive_loss(scores, tensor([[False, True, False]]), 0.5).backward()
    p = (scores.detach() / 0.5).softmax(-1)
    torch.testing.assert_close(scores.grad, (p - tensor([[0.0, 1.0, 0.0]])) / 0.5)
