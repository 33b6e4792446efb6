"""Copies: as far as a real neighbour and below real ones for a question, or as if drawn anew."""

import pytest
import torch
from clara.evaluation.speed import enlarge
from clara.evaluation.speed.enlarge import Enlarger, nearest_distances, write_enlarged
from clara.memory_clara import CorpusMemory


def real_memories(count=60, width=2000, seed=0):
    """A common direction and 20 others, in 2,000 dimensions; lengths differ."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, 21, generator=generator)).Q
    rows = torch.randn(count, 20, generator=generator) @ basis[:, :20].T + 6 * basis[:, 20]
    return (rows * (1 + torch.rand(count, 1, generator=generator))).unflatten(1, (4, width // 4))


def units(rows):
    return torch.nn.functional.normalize(rows.flatten(1))


def test_nearest_distances_by_hand(monkeypatch):
    monkeypatch.setattr(enlarge, "BLOCK_ROWS", 2)
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    assert nearest_distances(rows).tolist() == pytest.approx([0.8**0.5, 0.4**0.5, 0.4**0.5])


def test_noise_is_as_long_as_the_way_to_the_nearest_real_neighbour():
    real = real_memories()
    copies = units(Enlarger(real).copies(0, 300))
    cosines = copies @ units(real).T
    best, origin = cosines.max(dim=1)
    length = nearest_distances(units(real))[origin]
    assert torch.allclose(best, 1 / (1 + length**2).sqrt(), atol=0.03)


def test_noise_keeps_the_gaps_between_the_real_neighbours_of_a_question():
    real = real_memories()
    query = units(units(real[:10]) + units(real[10:20]))
    scores = query @ torch.cat([units(real), units(Enlarger(real).copies(0, 2000))]).T
    assert (scores.topk(1, dim=1).indices < 60).float().mean() >= 0.9
    plain = (query @ units(real).T).topk(3, dim=1).values
    crowded = scores.topk(3, dim=1).values
    assert (plain[:, 0] - crowded[:, 0]).abs().max() < 0.02


def test_mixing_keeps_mean_and_covariance():
    real = real_memories(400, width=200)
    copies = units(Enlarger(real, "mixed").copies(0, 20_000))
    first = units(real)
    assert torch.allclose(copies.mean(dim=0), first.mean(dim=0), atol=0.01)
    spread = [torch.linalg.svdvals(torch.cov(rows.T))[:5] for rows in (copies, first)]
    assert torch.allclose(*spread, rtol=0.15)


@pytest.mark.parametrize("perturbation", enlarge.PERTURBATIONS)
def test_copies_keep_lengths_and_are_the_same_again(perturbation):
    real = real_memories()
    copies = Enlarger(real, perturbation).copies(3, 50)
    lengths = real.flatten(1).norm(dim=1)
    nearest = (copies.flatten(1).norm(dim=1)[:, None] - lengths).abs().amin(dim=1)
    assert nearest.max() < 1e-3
    assert torch.equal(copies, Enlarger(real, perturbation).copies(3, 50))
    assert not torch.equal(copies, Enlarger(real, perturbation).copies(4, 50))


def test_the_store_begins_with_the_real_memories(tmp_path, monkeypatch):
    monkeypatch.setattr(enlarge, "BLOCK_ROWS", 25)
    values = real_memories(10, width=40)
    real = CorpusMemory(values.bfloat16(), [f"text {row}" for row in range(10)], fingerprint="f")
    memory = write_enlarged(tmp_path / "large", real, 64, dtype="int8")
    assert len(memory) == 64 and memory.stored_dtype == "int8" and memory.fingerprint == "f"
    assert list(memory.texts[:10]) == list(real.texts) and memory.texts[63] == "copy 63"
    assert torch.allclose(units(memory[:10]), units(values), atol=0.02)
    assert len(units(memory[:]).unique(dim=0)) == 64
    assert len(write_enlarged(tmp_path / "small", real, 4)) == 4


def test_refuses():
    with pytest.raises(ValueError, match="at least 2 memories"):
        Enlarger(torch.ones(1, 1, 4))
    with pytest.raises(ValueError, match="`perturbation` must be one of noise, mixed, got 'x'"):
        Enlarger(torch.ones(2, 1, 4), "x")
