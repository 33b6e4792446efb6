"""The index: questions projected, proposed by FAISS, as hard as it is told to try."""

import numpy as np
import pytest
import torch
from clara.index_clara import Effort, SketchIndex, choose_kind
from clara.searchers_clara import KINDS, make_searcher
from clara.sketch_clara import QuestionSketch

pytest.importorskip("faiss")
WIDTH = 16


def make_index(kind, count=500, seed=0):
    """Rows are their own sketches; a question's is twice the unit memory."""
    rows = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)).numpy()
    return SketchIndex(
        kind, QuestionSketch(2 * torch.eye(WIDTH)), make_searcher(kind, rows), Effort(2.0, 4, 100)
    ), rows


def best(query, rows, k):
    return np.argsort(-(query.flatten(1).numpy() @ rows.T), axis=1)[:, :k]


@pytest.mark.parametrize("kind", KINDS)
def test_proposes_the_nearest(kind):
    index, rows = make_index(kind)
    query = torch.randn(20, 1, WIDTH, generator=torch.Generator().manual_seed(1))
    proposed = index.propose(query, 60, cells=index.num_cells or None).numpy()
    expected = best(query, rows, 5)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(expected, proposed, strict=True)])
    assert proposed.shape == (20, 60) and recall >= (1.0 if kind == "flat" else 0.97)


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_lets_only_its_rows_through(kind):
    index, _ = make_index(kind)
    allowed = np.zeros(700, bool)  # rows after the index are none of its own
    allowed[[3, 77, 499, 600]] = True
    found = index.propose(torch.randn(2, 1, WIDTH), 5, allowed, cells=index.num_cells or None)
    assert [set(row) for row in found.tolist()] == [{3, 77, 499, -1}] * 2


def test_more_cells_and_more_codes_find_more():
    index, rows = make_index("ivf_pq", 2000)
    query = torch.randn(100, 1, WIDTH, generator=torch.Generator().manual_seed(1))
    expected = best(query, rows, 5)

    def recall(count, **effort):
        found = index.propose(query, count, **effort).numpy()
        return np.mean([np.isin(a, b).mean() for a, b in zip(expected, found, strict=True)])

    assert recall(50, cells=1) < recall(50, cells=8) < recall(50, cells=index.num_cells)
    assert recall(5, cells=51, reordered=5) < recall(5, cells=51, reordered=100)
    assert index.num_cells == 51


def test_the_bytes_of_each_kind():
    found = {kind: (make_index(kind)[0].code_bytes, make_index(kind)[0].sketch_bytes) for kind in KINDS}
    assert found == {"flat": (64, 0), "ivf_sq8": (16, 0), "ivf_rabitq": (10, 16), "ivf_pq": (8, 16)}


def test_kinds_by_size():
    assert [choose_kind(n) for n in (10, 50_000, 50_001, 200_000, 200_001)] == [
        "flat",
        "flat",
        "ivf_sq8",
        "ivf_sq8",
        "ivf_pq",
    ]
    assert choose_kind(10, "ivf_rabitq") == "ivf_rabitq"
    with pytest.raises(ValueError, match="`kind` must be one of flat, ivf_sq8, .*, got 'hnsw'"):
        choose_kind(10, "hnsw")


def test_candidates_grow_with_k():
    index, _ = make_index("flat")
    index.effort = Effort(8.0, 0)
    assert [index.count_for(k) for k in (1, 5, 100)] == [8, 40, 500]
