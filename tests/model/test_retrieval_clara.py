"""Cosines in float32, the soft top-k with numbers worked by hand, gathering."""

import math
from itertools import permutations

import pytest
import torch
from clara.retrieval_clara import Memories, cosine_scores, select, soft_topk, span_means
from torch import tensor


def one_hot(*rows, size):
    return [[float(i == row) for i in range(size)] for row in rows]


# cosine_scores


def test_cosine_by_hand():
    query = tensor([[3.0, 0.0, 0.0, 4.0]])
    memory = tensor([[3.0, 0.0, 0.0, 4.0], [4.0, 0.0, 0.0, -3.0], [0.0, 1.0, 0.0, 0.0]])
    torch.testing.assert_close(cosine_scores(query, memory), tensor([[1.0, 0.0, 0.0]]))
    own_pool = torch.stack([memory, memory.flip(0)])
    expected = tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(cosine_scores(query.expand(2, -1), own_pool), expected)


def test_cosine_of_zero_memory_is_zero():
    assert cosine_scores(torch.ones(1, 3), torch.zeros(1, 3)).tolist() == [[0.0]]


def test_cosine_is_float32_from_bfloat16_inputs():
    """Normalising in bfloat16 first moves near-tied cosines by more than their differences."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 256, generator=generator).bfloat16()
    memory = (query.float() + 0.05 * torch.randn(200, 256, generator=generator)).bfloat16()
    scores = cosine_scores(query, memory)
    flat, pool = query.double(), memory.double()
    exact = torch.nn.functional.cosine_similarity(flat, pool).unsqueeze(0)
    assert scores.dtype == torch.float32
    assert (scores - exact).abs().max() < 1e-6
    assert scores.argsort(descending=True)[0, :10].tolist() == exact.argsort(descending=True)[0, :10].tolist()
    late = (
        torch.nn.functional.normalize(flat.bfloat16(), dim=-1)
        @ torch.nn.functional.normalize(pool.bfloat16()).T
    )
    assert (late.float() - exact).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(5, 7), (2, 5, 7)])
def test_cosine_refuses_other_widths(shape):
    with pytest.raises(ValueError, match="must have one width, got 8 and 7"):
        cosine_scores(torch.ones(2, 8), torch.ones(shape))


# soft_topk: forward


def test_taken_document_gives_up_its_place():
    weights, indices = soft_topk(tensor([[0.9, 0.3, 0.1]]), k=2, temperature=0.02)
    assert weights.tolist() == [one_hot(0, 1, size=3)]
    assert indices.tolist() == [[0, 1]]


@pytest.mark.parametrize("estimator", ["straight_through", "gumbel"])
def test_forward_is_exactly_one_hot(estimator):
    scores = torch.rand(7, 12, requires_grad=True)
    weights, indices = soft_topk(scores, 5, 0.02, estimator)
    assert weights.shape == (7, 5, 12) and weights.dtype == torch.float32
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    assert weights.argmax(-1).tolist() == indices.tolist()
    assert all(len(set(row)) == 5 for row in indices.tolist())


def test_straight_through_takes_the_best_in_order():
    scores = torch.randn(4, 9)
    _, indices = soft_topk(scores, 9)
    assert indices.tolist() == scores.argsort(descending=True).tolist()


def test_half_precision_scores_are_divided_in_float32():
    weights, _ = soft_topk(tensor([[0.5, 0.25]], dtype=torch.bfloat16), 1)
    assert weights.dtype == torch.float32


def test_ragged_candidates_by_mask():
    scores = tensor([[0.1, 0.9, 0.8, 0.7], [0.4, 0.3, 0.2, 0.99]])
    mask = tensor([[True, False, True, True], [True, True, False, False]])
    weights, indices = soft_topk(scores, 2, mask=mask)
    assert indices.tolist() == [[2, 3], [0, 1]]
    assert (weights * ~mask.unsqueeze(1)).abs().max() == 0


# soft_topk: gradient


def softmax_jacobian_row(logits, upstream, temperature):
    """Gradient of sum(upstream * softmax(scores / t)) by hand: p_i (g_i - sum_j p_j g_j) / t."""
    top = max(logits)
    exp = [math.exp((value - top) / temperature) for value in logits]
    p = [value / sum(exp) for value in exp]
    mean = sum(a * b for a, b in zip(p, upstream, strict=True))
    return [a * (g - mean) / temperature for a, g in zip(p, upstream, strict=True)]


def test_gradient_is_the_softmax_jacobian_of_each_slot():
    scores = tensor([[0.5, 0.2, 0.4]], requires_grad=True)
    weights, indices = soft_topk(scores, k=2, temperature=0.5)
    assert indices.tolist() == [[0, 2]]
    upstream = tensor([[[1.0, -2.0, 3.0], [0.5, 0.25, -1.0]]])
    (weights * upstream).sum().backward()
    slot_1 = softmax_jacobian_row([0.5, 0.2, 0.4], [1.0, -2.0, 3.0], 0.5)
    slot_2 = softmax_jacobian_row([0.2, 0.4], [0.25, -1.0], 0.5)
    expected = [slot_1[0], slot_1[1] + slot_2[0], slot_1[2] + slot_2[1]]
    torch.testing.assert_close(scores.grad, tensor([expected]))


def test_a_wide_lead_does_not_keep_the_second_slot():
    """With log(1e-8) for a mask, a lead above 0.368 kept slot 2's softmax at temperature 0.02."""
    scores = tensor([[0.95, 0.11, 0.10, 0.08]], requires_grad=True)
    weights, indices = soft_topk(scores, k=2, temperature=0.02)
    assert indices.tolist() == [[0, 1]]
    gradient = torch.autograd.grad((weights[0, 1] * tensor([0.0, 1.0, 0.0, 0.0])).sum(), scores)[0]
    expected = softmax_jacobian_row([0.11, 0.10, 0.08], [1.0, 0.0, 0.0], 0.02)
    assert gradient[0, 0] == 0.0
    torch.testing.assert_close(gradient[0, 1:], tensor(expected))
    assert gradient[0, 1] > 10


@pytest.mark.parametrize("estimator", ["straight_through", "gumbel"])
def test_every_document_chosen_has_finite_gradients(estimator):
    scores = tensor([[0.9, -0.9, 0.3], [0.1, 0.1, 0.1]], requires_grad=True)
    weights, _ = soft_topk(scores, 3, 0.02, estimator)
    (weights * torch.arange(18.0).view(2, 3, 3)).sum().backward()
    assert scores.grad.isfinite().all()


def test_masked_candidates_get_no_gradient():
    scores = torch.rand(2, 5, requires_grad=True)
    mask = tensor([[True, True, True, False, False], [True, True, True, True, True]])
    weights, _ = soft_topk(scores, 3, 0.5, mask=mask)
    (weights * torch.rand(2, 3, 5)).sum().backward()
    assert scores.grad.isfinite().all()
    assert scores.grad[0, 3:].tolist() == [0.0, 0.0] and (scores.grad[1] != 0).all()


# gumbel


def test_gumbel_samples_without_replacement():
    """P(i then j) = p_i p_j / (1 - p_i) for p in proportion to exp(score / temperature)."""
    torch.manual_seed(0)
    temperature, scores, draws = 0.5, tensor([0.5, 0.2, 0.0]), 40_000
    _, indices = soft_topk(scores.expand(draws, -1), 2, temperature, "gumbel")
    p = (scores / temperature).softmax(0).tolist()
    for i, j in permutations(range(3), 2):
        expected = p[i] * p[j] / (1 - p[i])
        seen = ((indices[:, 0] == i) & (indices[:, 1] == j)).float().mean().item()
        assert abs(seen - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


def test_gumbel_follows_the_seed():
    scores = torch.rand(8, 20)
    torch.manual_seed(5)
    first = soft_topk(scores, 4, 0.5, "gumbel")[1]
    second = soft_topk(scores, 4, 0.5, "gumbel")[1]
    torch.manual_seed(5)
    assert torch.equal(first, soft_topk(scores, 4, 0.5, "gumbel")[1])
    assert not torch.equal(first, second)


# Bad input


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_outside_the_candidates(k):
    with pytest.raises(ValueError, match=f"`k` must be between 1 and the 3 candidate documents.*got {k}"):
        soft_topk(torch.rand(2, 3), k)


def test_k_above_the_shortest_candidate_list():
    mask = tensor([[True, True, True], [True, False, False]])
    with pytest.raises(ValueError, match="the 1 candidate"):
        soft_topk(torch.rand(2, 3), 2, mask=mask)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="`temperature` must be above 0"):
        soft_topk(torch.rand(2, 3), 1, temperature)


def test_unknown_estimator():
    with pytest.raises(ValueError, match="`estimator` must be .*got 'sparsemax'"):
        soft_topk(torch.rand(2, 3), 1, estimator="sparsemax")


# select


def test_select_takes_what_was_chosen_and_carries_the_gradient():
    scores = torch.rand(2, 5, requires_grad=True)
    memory, counts = torch.randn(2, 5, 3, 4), torch.randint(1, 4, (2, 5))
    weights, indices = soft_topk(scores, 2, 0.5)
    chosen = select(weights, indices, Memories(memory, counts))
    rows = torch.arange(2).unsqueeze(-1)
    assert torch.equal(chosen.values, memory[rows, indices])
    assert torch.equal(chosen.counts, counts[rows, indices])
    chosen.values.square().sum().backward()
    assert scores.grad.abs().sum() > 0
    assert select(weights, indices, Memories(memory.bfloat16(), counts)).values.dtype == torch.bfloat16


def test_products_keep_their_dtype_under_autocast():
    """bfloat16 would give one score to several near documents, and cut a float32 memory."""
    query = torch.randn(2, 64)
    vectors = query.mean(0) + 0.2 * torch.randn(2, 5, 64)
    memories = Memories(torch.randn(2, 5, 4, 64), torch.full((2, 5), 4))
    weights, indices = torch.nn.functional.one_hot(torch.tensor([[1], [3]]), 5).float(), tensor([[1], [3]])
    states, mask = torch.randn(2, 12, 8), torch.ones(2, 12)

    def products():
        yield cosine_scores(query, vectors)
        yield cosine_scores(query, vectors[0])
        yield select(weights, indices, memories).values
        yield span_means(states, mask, 4).values

    plain = list(products())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = list(products())
    for found, expected in zip(cast, plain, strict=True):
        assert found.dtype == torch.float32 and torch.equal(found, expected)
