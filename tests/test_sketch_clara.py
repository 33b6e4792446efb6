"""The sketches' inner products against cosines: the same, but for what the directions leave out."""

import pytest
import torch
from clara.sketch_clara import DocumentSketch, QuestionSketch, learn_sketches, sample_rows
from torch.nn.functional import normalize


def flat_corpus(count=300, rank=6, shape=(3, 8), shift=5.0, seed=0):
    """Memories that vary in `rank` directions around a large common one, all of length 1."""
    generator = torch.Generator().manual_seed(seed)
    width = shape[0] * shape[1]
    basis = torch.linalg.qr(torch.randn(width, rank + 1, generator=generator)).Q
    rows = torch.randn(count, rank, generator=generator) @ basis[:, :rank].T + shift * basis[:, rank]
    return normalize(rows).unflatten(1, shape)


def learn(rows, dimensions, questions=None, seed=0):
    return learn_sketches(
        len(rows), rows[0].numel(), lambda places: rows[places], dimensions, questions, seed
    )


def products(sketches, rows, query):
    """Inner products (questions, documents) of the sketches, and what they are to be but for a constant."""
    flat = rows.flatten(1)
    found = sketches[1].project(query) @ sketches[0].project(flat, flat.norm(dim=1)).T
    exact = normalize(query.flatten(1)) @ normalize(flat).T
    return found - found.mean(1, keepdim=True), exact - exact.mean(1, keepdim=True)


def test_sketches_by_hand():
    """The mean memory lies at (0.5, 0); one axis each, of length 1 and 2."""
    documents = DocumentSketch(torch.tensor([0.5, 0.0]), torch.tensor([[1.0, 0.0]]))
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert documents.project(rows, rows.norm(dim=1)).flatten().tolist() == pytest.approx([0.1, -0.5])
    questions = QuestionSketch(torch.tensor([[2.0, 0.0]]))
    query = torch.tensor([[[0.0, 2.0]], [[8.0, 6.0]]])
    assert questions.project(query).flatten().tolist() == pytest.approx([0.0, 1.6])
    assert documents.dimensions == questions.dimensions == 1


@pytest.mark.parametrize("given", [False, True])
def test_inner_products_are_cosines_where_no_direction_is_left_out(given):
    rows, query = flat_corpus(), torch.randn(9, 3, 8, generator=torch.Generator().manual_seed(1))
    found, exact = products(learn(rows, 24, query if given else None), rows, query)
    assert (found - exact).abs().max() < 2e-3 * exact.abs().max()


def test_keeps_what_questions_ask_for():
    """Documents vary mostly in ten directions; questions lie in three others, where documents vary less."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 40, generator=generator)).Q
    spread = torch.cat([torch.ones(10), torch.full((3,), 0.3), torch.full((27,), 0.03)])
    rows = (torch.randn(500, 40, generator=generator) * spread + 4 * torch.eye(40)[20]) @ basis.T
    asked = torch.randn(200, 3, generator=generator) @ basis[:, 10:13].T + basis[:, 20]
    rows, asked = rows.unflatten(1, (4, 10)), asked.unflatten(1, (4, 10))
    errors = []
    for questions in (None, asked[:100]):
        found, exact = products(learn(rows, 5, questions), rows, asked[100:])
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[0] > 0.5 and errors[1] < 0.1


def test_both_sketches_spread_alike_and_evenly():
    generator = torch.Generator().manual_seed(0)
    spread = 0.7 ** torch.arange(24.0)
    rows, query = ((torch.randn(3000, 24, generator=generator) * spread + 3) for _ in range(2))
    rows, query = rows.unflatten(1, (3, 8)), query.unflatten(1, (3, 8))
    documents, questions = learn(rows, 8, query)
    flat = rows.flatten(1)
    left = documents.project(flat, flat.norm(dim=1)).T.cov()
    right = questions.project(query).T @ questions.project(query)  # about 0, as S is
    assert torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1] > 0.95
    untold = spread[0] ** 2 / spread[7] ** 2  # how uneven documents are without balance
    assert left.diag().max() < 0.6 * untold * left.diag().min()


def test_length_does_not_count():
    rows = flat_corpus()
    documents, questions = learn(rows * 7, 4)
    flat = rows.flatten(1)
    once, nine = documents.project(flat, flat.norm(dim=1)), documents.project(9 * flat, 9 * flat.norm(dim=1))
    assert torch.allclose(once, nine, atol=1e-5)
    assert torch.allclose(questions.project(rows[:3]), questions.project(5 * rows[:3]), atol=1e-6)


def test_large_samples_take_the_quick_way():
    rows = flat_corpus(count=400, rank=5, shape=(10, 20))
    found, exact = products(learn(rows, 7), rows, rows[:30])
    assert (found - exact).norm() < 0.01 * exact.norm()


def test_dimensions_are_bounded_by_sample_and_width():
    rows = flat_corpus(count=5)
    assert learn(rows, 256)[0].dimensions == 4
    assert learn(rows[:1], 256)[1].dimensions == 1
    assert learn(flat_corpus(), 256)[0].dimensions == 24


@pytest.mark.parametrize("questions", [torch.ones(1, 3, 8), torch.ones(4, 3, 8), torch.zeros(3, 3, 8)])
def test_questions_that_say_nothing_leave_finite_sketches(questions):
    rows = flat_corpus()
    found, _ = products(learn(rows, 6, questions), rows, rows[:5])
    assert found.isfinite().all() and found.abs().max() > 1e-3


def test_the_questions_axes_are_kept_in_half_precision():
    axes = learn(flat_corpus(), 6)[1].axes
    assert axes.dtype is torch.float16 and axes.abs().max() == 1


def test_learning_leaves_the_random_state_alone():
    rows = flat_corpus(count=400, shape=(10, 20))
    before = torch.get_rng_state()
    first = learn(rows, 6)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0].axes, learn(rows, 6)[0].axes)
    assert not torch.equal(first[0].axes, learn(rows, 6, seed=1)[0].axes)


def test_samples_are_sorted_without_repeats():
    places = sample_rows(1000, 100, torch.Generator().manual_seed(0))
    assert len(places) == 100 and torch.equal(places, places.unique())
    assert sample_rows(7, 100, torch.Generator()).tolist() == list(range(7))
