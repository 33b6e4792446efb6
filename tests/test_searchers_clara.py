"""What FAISS holds, kind by kind, against plain inner products."""

import numpy as np
import pytest
from clara import searchers_clara
from clara.commands import searching
from clara.searchers_clara import KINDS, cells_for, make_searcher, read_searcher, search_parameters

faiss = pytest.importorskip("faiss")


def make_sketches(count=3000, dimensions=120, seed=0):
    """Sketches whose first numbers vary most."""
    noise = np.random.default_rng(seed).standard_normal((count, dimensions))
    return (noise * 0.95 ** np.arange(dimensions)).astype(np.float32)


def found(searcher, kind, query, k=60, allowed=None, cells=None, reordered=10.0):
    if KINDS[kind].cells:
        cells = cells or faiss.extract_index_ivf(searcher).nlist
    return searcher.search(query, k, params=search_parameters(kind, allowed, cells, reordered))[1]


def exact(query, sketches, k):
    return np.argsort(-(query @ sketches.T), axis=1)[:, :k]


def recall(found, true):
    return np.mean([np.isin(a, b).mean() for a, b in zip(true, found, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
def test_proposes_by_inner_product_though_questions_lie_elsewhere(kind):
    sketches = make_sketches()
    query = 3 * make_sketches(20, seed=1) + 1
    proposed = found(make_searcher(kind, sketches), kind, query)
    assert proposed.shape == (20, 60)
    assert recall(proposed, exact(query, sketches, 5)) >= (1.0 if kind == "flat" else 0.97)
    if kind == "flat":
        assert np.array_equal(proposed, exact(query, sketches, 60))


@pytest.mark.parametrize("kind", ["ivf_rabitq", "ivf_pq"])
def test_sketches_on_disk_order_the_codes_anew(kind):
    sketches, query = make_sketches(), make_sketches(50, seed=1)
    searcher, true = make_searcher(kind, sketches), exact(query, sketches, 5)
    few, many = (recall(found(searcher, kind, query, 5, reordered=n), true) for n in (1.0, 20.0))
    assert few < 0.93 and many >= 0.98


def test_cells_hold_what_is_nearest_and_are_chosen_by_inner_product():
    """A long centre draws the questions of its direction, but not the short documents of it."""
    centres = np.float32([[10, 0], [1, 0], [0, 5]]).repeat(39, axis=0)
    sketches = centres + 0.1 * np.random.default_rng(0).standard_normal(centres.shape).astype(np.float32)
    searcher = make_searcher("ivf_sq8", sketches)
    lists = searcher.invlists
    cells = [faiss.rev_swig_ptr(lists.get_ids(n), lists.list_size(n)).tolist() for n in range(lists.nlist)]
    assert sorted(cells) == [list(range(0, 39)), list(range(39, 78)), list(range(78, 117))]
    proposed = found(searcher, "ivf_sq8", np.float32([[1, 0], [0.01, 1]]), 39, cells=1)
    assert set(proposed[0]) == set(range(39)) and set(proposed[1]) == set(range(78, 117))


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_lets_only_its_rows_through(kind):
    allowed = np.zeros(3000, bool)
    allowed[[3, 77, 2999]] = True
    proposed = found(make_searcher(kind, make_sketches()), kind, make_sketches(2, seed=1), 5, allowed)
    assert [set(row) for row in proposed.tolist()] == [{3, 77, 2999, -1}] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_same_by_memory_map(kind, tmp_path):
    searcher, query = make_searcher(kind, make_sketches()), make_sketches(3, seed=1)
    faiss.write_index(searcher, str(tmp_path / "x.faiss"))
    assert np.array_equal(
        found(read_searcher(tmp_path / "x.faiss"), kind, query), found(searcher, kind, query)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "dimensions"), [(2, 1), (7, 3), (300, 41)])
def test_small_ones(kind, count, dimensions):
    sketches = make_sketches(count, dimensions)
    proposed = found(make_searcher(kind, sketches), kind, sketches[:2], 10, reordered=100.0)
    assert proposed.shape == (2, 10)
    assert {row for row in proposed[0] if row >= 0} <= set(range(count)) and (proposed[:, 0] >= 0).all()


@pytest.mark.parametrize(("kind", "most"), [("ivf_rabitq", 57), ("ivf_pq", 61)])
def test_codes_stay_below_64_bytes(kind, most):
    searcher = make_searcher(kind, make_sketches(20_000, 256))
    codes = faiss.serialize_index(searcher.base_index).nbytes - 4 * 256 * 256 - 4 * 256 * cells_for(20_000)
    assert codes / 20_000 < most
    assert searcher.refine_index.sa_code_size() == 256


def test_the_same_seed_gives_the_same(tmp_path):
    sketches, query = make_sketches(), make_sketches(5, seed=1)
    one, two, other = (
        found(make_searcher("ivf_pq", sketches, seed), "ivf_pq", query, 50, reordered=1.0)
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_cells():
    assert cells_for(1_000_000) == 2048
    assert cells_for(39 * 3) == 3  # no cell without documents enough to learn it from
    assert cells_for(1) == 1


def test_the_command_line_names_every_kind():
    assert tuple(KINDS) == searching.KINDS


def test_no_faiss_is_an_error_that_says_what_to_do(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(searchers_clara.importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match="clara\\[store\\].*exact=True"):
        searchers_clara.load_faiss()


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "x.faiss").write_bytes(b"no index at all, but some bytes")
    with pytest.raises(ValueError, match="x.faiss is not a readable index"):
        read_searcher(tmp_path / "x.faiss")
