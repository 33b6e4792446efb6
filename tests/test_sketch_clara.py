"""The sketch's distances against cosines: the same but for what it leaves out of question and document."""

import pytest
import torch
from clara.sketch_clara import Sketch, learn_sketch, sample_rows


def flat_corpus(count=300, rank=6, shape=(3, 8), shift=5.0, seed=0):
    """Memories that vary in `rank` directions around a large common one, all of length 1."""
    generator = torch.Generator().manual_seed(seed)
    width = shape[0] * shape[1]
    basis = torch.linalg.qr(torch.randn(width, rank + 1, generator=generator)).Q
    rows = torch.randn(count, rank, generator=generator) @ basis[:, :rank].T + shift * basis[:, rank]
    return torch.nn.functional.normalize(rows).unflatten(1, shape)


def test_sketches_by_hand():
    """The mean memory lies at (0.5, 0); one axis; what it leaves out of (0.6, 0.8) is 0.8."""
    sketch = Sketch(torch.tensor([0.5, 0.0]), torch.tensor([[1.0, 0.0]]), torch.eye(2))
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    found = sketch.project(rows, rows.norm(dim=1))
    assert found[0].tolist() == pytest.approx([0.1, 0.8])
    assert found[1].tolist() == pytest.approx([-0.5, 0.0])
    query = torch.tensor([[[0.0, 2.0]], [[8.0, 6.0]]])
    assert sketch.questions(query).flatten().tolist() == pytest.approx([-0.5, 0, 0.3, 0])


@pytest.mark.parametrize("dimensions", [7, 3])
def test_distances_are_cosines_where_the_question_lies_in_the_directions(dimensions):
    """Whatever is left out of the documents: |sketch - sketch|² + 2 cosine is one number a question."""
    rows = flat_corpus()
    sketch = learn_sketch(len(rows), 24, lambda places: rows[places], dimensions)
    seen = torch.randn(4, dimensions - 1, generator=torch.Generator().manual_seed(1)) @ sketch.axes
    query = torch.nn.functional.normalize(sketch.mean + seen)
    query = query - (query - sketch.mean) @ (torch.eye(24) - sketch.axes.T @ sketch.axes)
    query, flat = torch.nn.functional.normalize(query), rows.flatten(1)
    left_out = ((query - sketch.mean) - (query - sketch.mean) @ sketch.axes.T @ sketch.axes).norm(dim=1).max()
    products = query @ flat.T
    distances = torch.cdist(
        sketch.questions(query.unflatten(1, (3, 8))), sketch.project(flat, flat.norm(dim=1))
    )
    constant = distances.square() + 2 * products
    assert (constant - constant.mean(dim=1, keepdim=True)).abs().max() <= 2 * left_out + 1e-5
    assert (products.amax(dim=1) - products.amin(dim=1)).min() > 0.01


def test_length_does_not_count():
    rows = flat_corpus()
    sketch = learn_sketch(len(rows), 24, lambda places: rows[places] * 7, dimensions=4)
    flat = rows.flatten(1)
    assert torch.allclose(
        sketch.project(flat, flat.norm(dim=1)), sketch.project(9 * flat, 9 * flat.norm(dim=1)), atol=1e-5
    )
    assert torch.allclose(sketch.questions(rows[:3]), sketch.questions(5 * rows[:3]), atol=1e-6)


def test_axes_are_orthonormal_and_catch_the_spread():
    rows = flat_corpus(rank=3)
    sketch = learn_sketch(len(rows), 24, lambda places: rows[places], dimensions=5)
    assert torch.allclose(sketch.axes @ sketch.axes.T, torch.eye(4), atol=1e-5)
    spread = rows.flatten(1) - rows.flatten(1).mean(dim=0)
    assert (spread @ sketch.axes.T).norm() == pytest.approx(float(spread.norm()), rel=1e-4)


def test_large_samples_take_the_quick_way():
    rows = flat_corpus(count=400, rank=5, shape=(10, 20))
    sketch = learn_sketch(400, 200, lambda places: rows[places], dimensions=7)
    spread = rows.flatten(1) - rows.flatten(1).mean(dim=0)
    assert (spread @ sketch.axes.T).norm() == pytest.approx(float(spread.norm()), rel=1e-3)


def test_dimensions_are_bounded_by_sample_and_width():
    rows = flat_corpus(count=5)
    assert learn_sketch(5, 24, lambda places: rows[places], 256).dimensions == 5
    assert learn_sketch(1, 24, lambda places: rows[places], 256).dimensions == 2


def test_learning_leaves_the_random_state_alone():
    rows = flat_corpus(count=400, shape=(10, 20))
    before = torch.get_rng_state()
    first = learn_sketch(400, 200, lambda places: rows[places], 6)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.axes, learn_sketch(400, 200, lambda places: rows[places], 6).axes)


def test_samples_are_sorted_without_repeats():
    places = sample_rows(1000, 100, torch.Generator().manual_seed(0))
    assert len(places) == 100 and torch.equal(places, places.unique())
    assert sample_rows(7, 100, torch.Generator()).tolist() == list(range(7))
