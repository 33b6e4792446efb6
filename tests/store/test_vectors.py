from datetime import timedelta

import numpy as np
import pytest
import torch
from clara.store import CorpusStore
from clara.store import search as find
from memory_helpers import make_memory

WIDE = 576


def ids(store, vectors, k=1, **options):
    return [[store.document_ids[i] for i in row] for row in store.search(vectors, k, **options)[1].tolist()]


@pytest.fixture
def store(tmp_path):
    """Thirty wide passages in three fragments, four of them deleted."""
    made = CorpusStore.open(tmp_path / "s")
    for first in (0, 10, 20):
        made.append(make_memory(10, first=first, width=WIDE))
    made.delete(["d0", "d9", "d14", "d29"])
    return made


def expected(names):
    parts = {first: make_memory(10, first=first, width=WIDE).vectors for first in (0, 10, 20)}
    return torch.stack([parts[name // 10 * 10][name % 10] for name in names])


LEFT = [name for name in range(30) if name not in (0, 9, 14, 29)]


def test_wide_vectors_are_mapped_and_right(store):
    assert store._vectors.whole
    units = torch.nn.functional.normalize(expected(LEFT), dim=1).numpy().astype(np.float16)
    addresses = store._places.addresses(np.arange(26))
    assert np.array_equal(store._vectors.at(addresses), units)
    assert np.array_equal(store._vectors.at(addresses[::-3]), units[::-3])
    assert np.array_equal(np.concatenate(list(store._vectors.blocks(4))), units)
    assert store._places.indices(addresses).tolist() == list(range(26))


def test_mapped_search_is_that_of_lance(store, monkeypatch):
    query = expected(LEFT) + 0.3
    mapped = store.search(query, 5), store.search(query, 5, where="number > 7")
    assert ids(store, expected(LEFT)) == [[f"d{name}"] for name in LEFT]
    used = []
    plain = find._scanned
    monkeypatch.setattr(find, "_scanned", lambda dataset: used.append(1) or plain(dataset))
    store.search(query, 5)
    assert not used
    store._vectors._maps = {}
    assert not store._vectors.whole
    read = store.search(query, 5), store.search(query, 5, where="number > 7")
    assert used == [1]
    for (scores, indices), (other_scores, other_indices) in zip(mapped, read, strict=True):
        assert indices.tolist() == other_indices.tolist()
        torch.testing.assert_close(scores, other_scores)


def test_narrow_vectors_are_read_by_lance(tmp_path):
    store = CorpusStore.open(tmp_path / "s")
    store.append(make_memory(10, width=8))
    assert not store._vectors.whole
    assert ids(store, make_memory(10, width=8).vectors) == [[f"d{name}"] for name in range(10)]
    at = store._vectors.at(store._places.addresses(np.array([3, 3, 0])))
    units = torch.nn.functional.normalize(make_memory(10, width=8).vectors, dim=1).numpy().astype(np.float16)
    assert np.array_equal(at, units[[3, 3, 0]])


def test_a_file_of_another_layout_is_not_mapped(store, monkeypatch):
    page = [(0, np.zeros((10, WIDE), np.float16))]
    monkeypatch.setattr("clara.store.vectors.Vectors._pages", lambda *_: iter(page))
    fresh = CorpusStore.open(store.uri)
    assert not fresh._vectors.whole and ids(fresh, expected(LEFT[:3])) == [["d1"], ["d2"], ["d3"]]


def test_a_map_outlives_the_files_of_its_version(store):
    reader = CorpusStore.open(store.uri)
    before = ids(reader, expected(LEFT))
    reader.document_ids.take(range(26))
    store.delete(["d1", "d2"])
    store.optimize(keep_versions=timedelta(0))
    assert ids(reader, expected(LEFT)) == before
    assert ids(store, expected(LEFT[2:])) == [[f"d{name}"] for name in LEFT[2:]]
