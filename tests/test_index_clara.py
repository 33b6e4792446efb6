"""Every kind of index against plain cosines."""

import numpy as np
import pytest
import torch
from clara import index_clara
from clara.index_clara import KINDS, Effort, SketchIndex, cells_for, choose_kind, make_searcher, read_searcher
from clara.sketch_clara import Sketch

faiss = pytest.importorskip("faiss")
WIDTH = 16


def make_index(kind, count=500, seed=0):
    sketch = Sketch(torch.zeros(WIDTH), torch.eye(WIDTH), torch.eye(WIDTH + 1))
    rows = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    values = sketch.project(rows, rows.norm(dim=1)).numpy()
    return SketchIndex(kind, sketch, make_searcher(kind, values), Effort(2.0, 4)), values


def best(query, values, k):
    unit = torch.nn.functional.normalize(query.flatten(1)).numpy()
    return np.argsort(-(unit @ values[:, :WIDTH].T), axis=1)[:, :k]


@pytest.mark.parametrize("kind", KINDS)
def test_proposes_the_nearest(kind):
    index, values = make_index(kind)
    query = torch.from_numpy(values[:20, :WIDTH] + 0.02).unsqueeze(1)
    found = index.propose(query, 60, cells=index.num_cells or None).numpy()
    expected = best(query, values, 5)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(expected, found, strict=True)])
    assert found.shape == (20, 60) and recall >= (1.0 if kind == "flat" else 0.9)
    if kind == "flat":
        assert np.array_equal(found, best(query, values, 60))


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_lets_only_its_rows_through(kind):
    index, values = make_index(kind)
    allowed = np.zeros(500, bool)
    allowed[[3, 77, 499]] = True
    found = index.propose(torch.randn(2, 1, WIDTH), 5, allowed, cells=index.num_cells or None)
    assert [set(row) for row in found.tolist()] == [{3, 77, 499, -1}] * 2


def test_more_cells_find_more():
    index, values = make_index("ivf_sq8", 2000)
    query = torch.from_numpy(values[:50, :WIDTH]).unsqueeze(1)
    expected = best(query, values, 5)

    def recall(cells):
        found = index.propose(query, 50, cells=cells).numpy()
        return np.mean([np.isin(a, b).mean() for a, b in zip(expected, found, strict=True)])

    assert recall(1) < recall(8) < recall(index.num_cells)
    assert index.num_cells == 51


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_same_by_memory_map(kind, tmp_path):
    index, values = make_index(kind)
    path = tmp_path / "x.faiss"
    faiss.write_index(index.searcher, str(path))
    query = torch.randn(3, 1, WIDTH)
    expected = index.propose(query, 30)
    index.searcher = read_searcher(path)
    assert torch.equal(index.propose(query, 30), expected)


def test_one_bit_a_number_stays_below_64_bytes():
    values = np.random.default_rng(0).standard_normal((5000, 256)).astype(np.float32)
    searcher = make_searcher("rabitq", values)
    assert len(faiss.serialize_index(searcher)) / 5000 < 42


def test_kinds_by_size():
    assert [choose_kind(n) for n in (10, 50_000, 50_001, 200_000, 200_001)] == [
        "flat",
        "flat",
        "ivf_sq8",
        "ivf_sq8",
        "ivf_rabitq",
    ]
    assert choose_kind(10, "rabitq") == "rabitq"
    with pytest.raises(ValueError, match="`kind` must be one of flat, sq8, .*, got 'hnsw'"):
        choose_kind(10, "hnsw")


def test_cells():
    assert cells_for(1_000_000) == 2048
    assert cells_for(39 * 3) == 3  # no cell without documents enough to learn it from
    assert cells_for(1) == 1


def test_candidates_grow_with_k():
    index, _ = make_index("flat")
    index.effort = Effort(8.0, 0)
    assert [index.count_for(k) for k in (1, 5, 100)] == [8, 40, 500]


def test_no_faiss_is_an_error_that_says_what_to_do(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(index_clara.importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match="clara\\[store\\].*exact=True"):
        index_clara.load_faiss()


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "x.faiss").write_bytes(b"no index at all, but some bytes")
    with pytest.raises(ValueError, match="x.faiss is not a readable index"):
        read_searcher(tmp_path / "x.faiss")
