import numpy as np
import pytest
import torch
from clara.memory_clara import CorpusMemory
from clara.store import CorpusStore
from clara.store.indexes import EFFORT, Effort, choose_effort, reaches, recall_at
from clara.store.places import Places
from memory_helpers import WIDTH, make_memory

QUERY = torch.nn.functional.normalize(
    torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(3)), dim=1
)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A plain memory of 40 passages, and a store of the same."""
    plain = make_memory(40)
    store = CorpusStore.open(tmp_path_factory.mktemp("search") / "s")
    store.append(make_memory(40))
    return plain, store


@pytest.mark.parametrize("k", [1, 7, 40])
def test_exact_search_is_that_of_the_plain_memory(both, k):
    (scores, indices), (expected, places) = (memory.search(QUERY, k) for memory in reversed(both))
    assert indices.tolist() == places.tolist()
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=0)
    assert (scores.dtype, indices.dtype) == (torch.float32, torch.int64) and scores.max() <= 1


@pytest.mark.parametrize("k", [0, 41, True])
def test_k_out_of_range_is_refused(both, k):
    with pytest.raises(ValueError, match="between 1 and the 40"):
        both[1].search(QUERY, k)


def test_another_width_is_refused(both):
    with pytest.raises(ValueError, match=r"must be \(B, 8\)"):
        both[1].search(torch.ones(1, 4), 1)


MAPPINGS = [
    ({"number": 2}, "number = 2"),
    ({"number": [1, 3, 99]}, "metadata.number IN (1, 3, 99)"),
    ({"number": {">=": 10, "<": 13}}, "number >= 10 AND number < 13"),
    ({"number": {"!=": 1}}, "number != 1"),
    ({"author.name": "a1"}, "author.name = 'a1'"),
    ({"id": "d4"}, "id = 'd4'"),
    ({"parent": ["d0", "d4"], "number": {">": 0}}, "parent IN ('d0', 'd4') AND `number` > 0"),
    ({"missing": 1}, "false"),
    ({"author.name.deep": 1}, "false"),
    ({"number": "2"}, "false"),
    ({"number": True}, "false"),
    ({"author.name": "it's"}, "author.name = 'it''s'"),
]


@pytest.mark.parametrize(("mapping", "sql"), MAPPINGS)
def test_filters_pass_what_the_plain_memory_passes(both, mapping, sql):
    plain, store = both
    expected = plain.search(QUERY, 40, where=mapping)[1]
    for where in (mapping, sql):
        scores, indices = store.search(QUERY, 40, where=where)
        assert indices.tolist() == expected.tolist() and scores.shape == indices.shape


@pytest.mark.parametrize("where", ["number >", "nope = 1", "number = 'x' AND", "", "   ", {}, {"n": []}, 3])
def test_malformed_filters_are_refused(both, where):
    with pytest.raises(ValueError, match="`where"):
        both[1].search(QUERY, 1, where=where)


def test_names_in_texts_and_columns_are_left_alone(tmp_path):
    fields = [{"text": "a", "order": 5, "number": i, "first name": f"n{i}", "Year": i} for i in range(4)]
    store = CorpusStore.open(tmp_path / "s")
    store.append(make_memory(4, metadata=fields, texts=["number", "b", "c", "number"]))

    def found(where):
        return sorted(store.search(QUERY[:1], 4, where=where)[1][0].tolist())

    assert found("text = 'number'") == [0, 3] and found("text = 'number' AND number > 1") == [3]
    assert found("metadata.text = 'a'") == [0, 1, 2, 3] and found("`first name` = 'n2'") == [2]
    assert found("Year = 1") == found({"Year": 1}) == found({"first name": "n1"}) == [1]


def test_words_find_what_the_plain_memory_finds(both):
    plain, store = both
    for question in ("text 7", "7", "zzz", 'text "7" OR (8:'):
        for weight in (1.0, 0.5, True):
            expected = plain.search(QUERY[:1], 5, [question], hybrid=weight)
            found = store.search(QUERY[:1], 5, [question], hybrid=weight)
            assert found[1].tolist() == expected[1].tolist()
            torch.testing.assert_close(found[0], expected[0], atol=1e-3, rtol=0)


def test_words_keep_to_the_filter(both):
    found = both[1].search(QUERY[:1], 3, ["text 7"], hybrid=1.0, where="number > 20")[1]
    assert (found > 20).all()


def test_words_of_one_letter_and_both_unicode_forms_count(tmp_path):
    store = CorpusStore.open(tmp_path / "s")
    store.append(make_memory(4, texts=["in C we", "cafe\u0301 x", "caf\u00e9 y", "\u1112\u1161\u11ab z"]))
    store.append(make_memory(1, first=7, texts=["plain C late"]))

    def best(question):
        return store.search(QUERY[:1], 2, [question], hybrid=1.0)[1][0].tolist()

    assert set(best("c")) == {0, 4} and set(best("caf\u00e9")) == set(best("cafe\u0301")) == {1, 2}
    assert best("\ud55c")[0] == best("\u1112\u1161\u11ab")[0] == 3


def test_hybrid_needs_questions(both):
    with pytest.raises(ValueError, match="`hybrid` needs `questions`"):
        both[1].search(QUERY, 1, hybrid=True)
    with pytest.raises(ValueError, match="`hybrid` is the weight"):
        both[1].search(QUERY, 1, ["a"] * 6, hybrid=-1)


def test_without_an_index_it_cannot_be_asked_for(both):
    with pytest.raises(ValueError, match="has no index of vectors"):
        both[1].search(QUERY, 1, exact=False)
    with pytest.raises(ValueError, match="An index needs 256 passages"):
        both[1].build_index()


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """A store of 3,000 passages of width 32 in clusters, with an index, and its vectors."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(50, 32, generator=generator)
    values = centers[torch.randint(50, (3000,), generator=generator)]
    values = values + 0.5 * torch.randn(3000, 32, generator=generator)
    names = [str(row) for row in range(3000)]
    memory = CorpusMemory(
        values, names, metadata=[{"n": row} for row in range(3000)], offsets=torch.arange(3001)
    )
    store = CorpusStore.open(tmp_path_factory.mktemp("indexed") / "s")
    store.append(memory)
    store.build_index(values[::40] + 0.3)
    return store, values


def test_the_index_finds_what_exact_search_finds(indexed):
    store, values = indexed
    asked = values[::31] + 0.3
    exact = store.search(asked, 5, exact=True)
    for mode in (False, None):
        scores, indices = store.search(asked, 5, exact=mode)
        assert recall_at(scores, exact[0]) >= 0.95 and recall_at(scores, exact[0] + 0.1) < 0.95
        torch.testing.assert_close(scores[:, 0], exact[0][:, 0], atol=2e-2, rtol=0)
        assert (scores.diff(dim=1) <= 0).all()


def test_the_index_is_really_used(indexed, monkeypatch):
    store, values = indexed
    monkeypatch.setattr("clara.store.store.find.exact", None)
    assert store.search(values[:3], 1)[1][:, 0].tolist() == [0, 1, 2]
    with pytest.raises(TypeError):
        store.search(values[:3], 1, exact=True)


def test_the_index_keeps_to_filters_and_falls_back(indexed):
    store, values = indexed
    scores, indices = store.search(values[:4], 5, where="n >= 2990")
    assert (indices >= 2990).all() and indices.shape == (4, 5)
    assert store.search(values[:4], 5, where="n >= 2998")[1].shape == (4, 2)
    assert store.search(values[:4], 5, where="n > 3000")[1].shape == (4, 0)


def test_what_came_after_the_index_is_found(indexed, tmp_path):
    store, values = indexed
    new = torch.randn(3, 32, generator=torch.Generator().manual_seed(5))
    store.append(CorpusMemory(new, ["x"] * 3, ["x", "y", "z"], offsets=torch.arange(4)))
    store.delete(["0"])
    assert [store.document_ids[i] for i in store.search(new, 1)[1][:, 0]] == ["x", "y", "z"]
    store.optimize()
    store._dataset.update_config(dict(zip(EFFORT, ("55", "512"), strict=True)))  # so hard that it misses none
    store.refresh()
    assert [store.document_ids[i] for i in store.search(new, 1, exact=False)[1][:, 0]] == ["x", "y", "z"]
    assert [store.document_ids[i] for i in store.search(values[1:3], 1, exact=True)[1][:, 0]] == ["1", "2"]


def test_a_filter_sees_what_is_there_now(tmp_path):
    def rows(first, kinds):
        names = [str(first + row) for row in range(len(kinds))]
        fields = {"metadata": [{"kind": kind} for kind in kinds], "offsets": torch.arange(len(kinds) + 1)}
        return CorpusMemory(torch.randn(len(kinds), 16), names, names, **fields)

    store, plain = CorpusStore.open(tmp_path / "s"), rows(0, "aab")
    store.append(rows(0, "aab"))
    for memory in (store, plain):
        assert memory.search(torch.ones(1, 16), 1, where={"kind": "b"})[1].tolist() == [[2]]
    store.delete(["2"])
    store.optimize()
    for memory in (store, plain):
        memory.append(rows(9, "ab"))
    assert store.search(torch.ones(1, 16), 4, where={"kind": "b"})[1].tolist() == [[3]]
    assert store.search(torch.ones(1, 16), 4, where="kind = 'b'")[1].tolist() == [[3]]
    assert sorted(plain.search(torch.ones(1, 16), 4, where={"kind": "b"})[1][0].tolist()) == [2, 4]


def test_a_store_is_not_added_to_a_store_unread(tmp_path):
    one, other = CorpusStore.open(tmp_path / "one"), CorpusStore.open(tmp_path / "other")
    one.append(CorpusMemory(torch.randn(1, 16), ["t"], ["a"], offsets=torch.arange(2)))
    for change in (other.append, other.upsert):
        with pytest.raises(
            TypeError, match=r"is a CorpusStore, which is not in RAM: give its `to_memory\(\)`"
        ):
            change(one)
    assert other.append(one.to_memory()) == 1


def test_optimize_builds_an_index_by_size(tmp_path, monkeypatch):
    store = CorpusStore.open(tmp_path / "s")
    store.append(CorpusMemory(torch.randn(300, 16), ["t"] * 300, offsets=torch.arange(301)))
    store.optimize()
    with pytest.raises(ValueError, match="no index of vectors"):
        store.search(torch.ones(1, 16), 1, exact=False)
    monkeypatch.setattr("clara.store.store.INDEXED_FROM", 300)
    store.optimize()
    assert store.search(torch.ones(1, 16), 1, exact=False)[1].shape == (1, 1)


def test_the_quickest_effort_that_finds_enough_is_chosen(monkeypatch):
    truth, tried, clock = -torch.arange(20.0).view(4, 5), [], [0.0]
    monkeypatch.setattr("clara.store.indexes.time.perf_counter", lambda: clock[0])

    def find(effort):
        """Enough with 16 cells and 8 times K candidates, or with 64 times K, which takes longer."""
        tried.append(effort)
        clock[0] += effort.nprobes + effort.refine
        enough = (effort.nprobes >= 16 and effort.refine >= 8) or effort.refine >= 64
        return truth if enough else truth - 100

    assert choose_effort(find, truth, 0.99, 64) == Effort(16, 8)
    assert len(set(tried)) == len(tried)
    assert choose_effort(lambda _: truth - 100, truth, 0.99, 64) == Effort(64, 512)


def test_an_effort_must_reach_the_recall_by_the_lower_end_of_its_interval():
    truth = torch.ones(64, 5)
    found = truth.clone()
    # 39 of 40 places are right: mean 0.975, standard deviation 0.066, an eighth of it for the mean
    found[:8, 0] = 0
    assert reaches(found, truth, 0.961) and not reaches(found, truth, 0.962)
    assert reaches(truth, truth, 1.0)


def test_recall_by_hand():
    truth = torch.tensor([[0.9, 0.8], [0.7, 0.6]])
    assert recall_at(torch.tensor([[0.9, 0.5], [0.7, 0.6]]), truth) == 0.75
    assert recall_at(torch.tensor([[0.9], [0.7]]), truth) == 0.5
    assert recall_at(torch.tensor([[0.8, 0.8], [0.7, 0.6 - 1e-7]]), truth) == 1  # equal passages, rounding


class Fragments:
    """A stand-in for a dataset whose fragments 2 and 5 hold 3 and 4 rows."""

    def __init__(self):
        self.fragment_id, self.num_deletions = 0, 0

    def get_fragments(self):
        made = []
        for number, rows in ((2, 3), (5, 4)):
            fragment = Fragments()
            fragment.fragment_id, fragment.count_rows = number, lambda rows=rows: rows
            made.append(fragment)
        return made


def test_places_by_hand():
    addresses = np.array([(5 << 32) + 1, 2 << 32, (2 << 32) + 2], np.uint64)
    assert Places(Fragments()).indices(addresses).tolist() == [4, 0, 2]
