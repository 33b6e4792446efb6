"""The graph beside a table: what it finds as the store changes, and what becomes of its file."""

from pathlib import Path

import pytest
import torch
from clara.memory_clara import CorpusMemory
from clara.store import CorpusStore
from clara.store import graph as graphs
from clara.store.graph import EFFORTS, FOLDER, UNTAUGHT, graph_facts
from clara.store.indexes import read_effort
from memory_helpers import flip


def memory(names, seed=0, width=32):
    values = torch.randn(len(names), width, generator=torch.Generator().manual_seed(seed))
    return CorpusMemory(values, ["a text"] * len(names), names, offsets=torch.arange(len(names) + 1))


@pytest.fixture
def store(tmp_path):
    made = CorpusStore.open(tmp_path / "s")
    made.append(memory([f"d{row}" for row in range(400)]))
    made.build_index()
    return made


def files(store):
    return sorted(path.name for path in Path(store.uri, FOLDER).iterdir())


def names(store, vectors, **options):
    return [store.document_ids[row[0]] for row in store.search(vectors, 1, **options)[1].tolist()]


def test_rows_that_came_later_are_found_and_rows_that_went_are_not(store):
    first, new = memory([f"d{row}" for row in range(400)]), memory(["new 1", "new 2"], seed=1)
    store.append(new)
    store.delete(["d5"])
    store.upsert(memory(["d7"], seed=2))
    assert names(store, new.vectors, exact=False) == ["new 1", "new 2"]
    assert names(store, memory(["d7"], seed=2).vectors, exact=False) == ["d7"]
    assert not {"d5", "d7"} & set(names(store, first.vectors[[5, 7]], exact=False))
    for five in first.vectors[::9].split(5):
        exact, found = (store.search(five, 5, exact=mode) for mode in (True, False))
        assert torch.equal(exact[1], found[1])
        torch.testing.assert_close(exact[0], found[0], atol=1e-6, rtol=0)


def test_where_most_rows_went_nothing_is_missed(store):
    store.append(memory([f"new {row}" for row in range(6)], seed=1))
    store.delete([f"d{row}" for row in range(400) if row % 20])
    asked = memory([f"d{row}" for row in range(40)]).vectors
    exact, found = (store.search(asked, 5, exact=mode) for mode in (True, None))
    assert torch.equal(exact[1], found[1])


def test_optimize_builds_it_again_only_where_it_lacks_rows(store):
    before = graph_facts(store._dataset)
    store.optimize()
    assert graph_facts(store._dataset) == before
    store.append(memory(["new"], seed=1))
    store.optimize()
    after = graph_facts(store._dataset)
    assert after["file"] != before["file"] and files(store) == [after["file"]]
    assert after["effort"] == before["effort"]
    assert after["fragments"] == [f.fragment_id for f in store._dataset.get_fragments()]
    assert names(store, memory(["new"], seed=1).vectors, exact=False) == ["new"]


def test_questions_choose_the_effort_and_without_them_it_is_fixed(store, monkeypatch):
    assert graph_facts(store._dataset)["effort"] == UNTAUGHT
    asked = memory([str(row) for row in range(64)], seed=3).vectors
    store.build_index(asked)
    assert graph_facts(store._dataset)["effort"] == EFFORTS[0]
    monkeypatch.setattr("clara.store.indexes.reaches", lambda found, truth, recall: recall < 0.98)
    store.build_index(asked)
    assert graph_facts(store._dataset)["effort"] == EFFORTS[-1]
    store.build_index(asked, recall=0.97)
    assert graph_facts(store._dataset)["effort"] == EFFORTS[0]


def test_the_effort_is_that_of_the_search(store, monkeypatch):
    seen = []
    candidates = graphs.Graph.candidates
    monkeypatch.setattr(
        graphs.Graph, "candidates", lambda *given: seen.append(given[2:]) or candidates(*given)
    )
    store.search(memory(["x"]).vectors, 5)
    assert seen == [(5 * graphs.COMPARED, UNTAUGHT)]


def test_an_altered_file_is_refused_and_a_missing_one_is_done_without(store):
    path = Path(store.uri, FOLDER, files(store)[0])
    flip(path, path.stat().st_size // 2)
    fresh = CorpusStore.open(store.uri)
    with pytest.raises(ValueError, match="altered or cut short: call `build_index` again"):
        fresh.search(memory(["x"]).vectors, 1)
    assert fresh.search(memory(["x"]).vectors, 1, exact=True)[1].tolist() == [[0]]
    path.unlink()
    fresh = CorpusStore.open(store.uri)
    assert fresh.search(memory(["x"]).vectors, 1)[1].tolist() == [[0]]
    with pytest.raises(ValueError, match="has no index of vectors"):
        fresh.search(memory(["x"]).vectors, 1, exact=False)


def test_wide_vectors_are_reduced_to_the_directions_in_which_they_are_longest():
    generator = torch.Generator().manual_seed(0)
    scale = torch.cat([torch.ones(100), torch.full((200,), 1e-3)])[torch.randperm(300, generator=generator)]
    rows = torch.nn.functional.normalize(torch.randn(2000, 300, generator=generator) * scale, dim=1)
    index = graphs._empty(graphs.library(), rows.numpy())
    index.add_with_ids(rows.numpy(), torch.arange(7, 2007).numpy())
    assert index.chain.at(0).d_out == graphs.WIDTH
    exact = (rows[:64] @ rows.T).topk(5).indices + 7
    found = torch.from_numpy(index.search(rows[:64].numpy(), 20)[1])
    assert (found.unsqueeze(1) == exact.unsqueeze(2)).any(2).float().mean() > 0.95


def test_one_kind_takes_the_place_of_the_other(store):
    store.build_index(index_type="IVF_RQ", num_partitions=4)
    assert graph_facts(store._dataset) is None and files(store) == [] and read_effort(store._dataset)
    store.build_index()
    assert read_effort(store._dataset) is None and len(files(store)) == 1
    with pytest.raises(ValueError, match=r"takes no options, got .* \['num_partitions'\]"):
        store.build_index(num_partitions=4)


def test_a_reader_of_an_earlier_version_keeps_what_it_has_opened(store):
    reader = CorpusStore.open(store.uri)
    asked = memory([f"d{row}" for row in range(400)]).vectors[:3]
    assert names(reader, asked, exact=False) == ["d0", "d1", "d2"]
    store.delete(["d0"])
    store.build_index()
    assert names(reader, asked, exact=False) == ["d0", "d1", "d2"]
    assert names(store, asked[1:], exact=False) == ["d1", "d2"]


def test_a_disk_that_takes_no_graph_leaves_the_store_as_it_was(store, monkeypatch):
    before = graph_facts(store._dataset)

    class Full:
        def __getattr__(self, name):
            return getattr(graphs.importlib.import_module("faiss"), name)

        def write_index(self, index, path):
            Path(path).write_bytes(b"half")
            raise RuntimeError("write error in a file: No space left on device")

    monkeypatch.setattr(graphs, "library", Full)
    with pytest.raises(OSError, match="cannot be written: write error .* No space left"):
        store.build_index()
    assert graph_facts(CorpusStore.open(store.uri)._dataset) == before and files(store) == [before["file"]]


def test_without_faiss_the_way_out_is_told(store, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'clara-rag\[store\]'"):
        store.build_index()
