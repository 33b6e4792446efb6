import pytest
import torch
from clara.evaluation.speed.enlarge import enlarged, mixed
from memory_helpers import make_memory

REAL = torch.nn.functional.normalize(torch.randn(40, 16, generator=torch.Generator().manual_seed(1)), dim=1)


def test_mixed_copies_keep_mean_and_spread():
    copies, rows = mixed(REAL * 3, 0, 4000)
    assert copies.shape == (4000, 16) and rows.max() < 40
    torch.testing.assert_close(copies.norm(dim=1), torch.ones(4000))
    torch.testing.assert_close(copies.mean(dim=0), REAL.mean(dim=0), atol=0.04, rtol=0)
    spread = [(part - part.mean(dim=0)).square().sum(dim=1).mean() for part in (REAL, copies)]
    assert 0.9 < spread[1] / spread[0] < 1.1


def test_blocks_are_the_same_again_and_differ():
    assert torch.equal(mixed(REAL, 3, 5)[0], mixed(REAL, 3, 5)[0])
    assert not torch.equal(mixed(REAL, 3, 5)[0], mixed(REAL, 4, 5)[0])


def test_one_vector_cannot_be_mixed():
    with pytest.raises(ValueError, match="at least 2 vectors"):
        mixed(REAL[:1], 0, 5)


def test_an_enlarged_corpus_begins_with_the_real_one():
    real = make_memory(7)
    first, *others = enlarged(real, 5000)
    assert first.document_ids == real.document_ids and torch.equal(first.vectors, real.vectors)
    assert len(first) + sum(map(len, others)) == 5000
    names = [name for part in others for name in part.document_ids]
    assert len(set(names)) == 4993 and others[0].texts[0] in real.texts
    assert [len(part) for part in enlarged(real, 4)] == [4]
