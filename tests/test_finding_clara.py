"""Search through an index and within filters: the exact result where it must be, K results if they exist."""

import numpy as np
import pytest
import torch
from clara.memory_clara import CorpusMemory
from store_helpers import make_memory

pytest.importorskip("faiss")
KINDS = ["flat", "ivf_sq8", "ivf_rabitq", "ivf_pq"]


def make_corpus(count=800, first=0, seed=0):
    generator = torch.Generator().manual_seed(seed + first)
    basis = torch.randn(10, 48, generator=torch.Generator().manual_seed(99))
    values = torch.randn(count, 10, generator=generator) @ basis + 3
    rows = range(first, first + count)
    return CorpusMemory(
        values.unflatten(1, (3, 16)),
        [f"text {row}" for row in rows],
        document_ids=[f"d{row}" for row in rows],
        metadata=[{"year": row % 20, "language": "de" if row % 100 == 0 else "en"} for row in rows],
    )


def queries(count=12):
    return make_corpus(count, seed=7)[:]


def recall(found, expected):
    return np.mean([np.isin(a, b).mean() for a, b in zip(expected.numpy(), found.numpy(), strict=True)])


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_order_are_exact(kind):
    memory, query = make_corpus(), queries()
    expected = memory.search(query, 5)
    memory.build_index(kind, dimensions=16, questions=queries(80)[:40], tests=queries(80)[40:])
    scores, indices = memory.search(query, 5)
    assert recall(indices, expected[1]) >= 0.97
    every = memory.search(query, 800, exact=True)
    known = [dict(zip(*row, strict=True)) for row in zip(every[1].tolist(), every[0].tolist(), strict=True)]
    for row, found in enumerate(indices.tolist()):
        assert scores[row].tolist() == [known[row][index] for index in found]
    assert (scores.diff(dim=1) <= 0).all()


def test_index_is_used_and_can_be_forbidden(monkeypatch):
    memory, query = make_corpus(), queries()
    memory.build_index("flat", 16)
    calls, plain = [], memory.index.propose
    monkeypatch.setattr(memory.index, "propose", lambda *given: (calls.append(1), plain(*given))[1])
    memory.search(query, 5, exact=True)
    assert not calls
    memory.search(query, 5)
    memory.search(query, 5, exact=False)
    assert len(calls) == 2


def test_reads_only_candidates(monkeypatch):
    memory = make_corpus()
    memory.build_index("flat", 16, questions=queries(80)[:40], tests=queries(80)[40:])
    monkeypatch.setattr(memory, "_read", lambda *rows: pytest.fail("the corpus was read"))
    read, plain = [], memory.gather
    monkeypatch.setattr(memory, "gather", lambda rows: (read.append(rows), plain(rows))[1])
    memory.search(queries(), 5)
    together = read[0]
    assert torch.equal(together, together.unique())  # each row once, in the order of the file
    assert len(together) <= 12 * memory.index.count_for(5)


def test_of_many_equal_candidates_the_first_are_found():
    memory = CorpusMemory(torch.ones(300, 4, 10), [str(row) for row in range(300)])
    memory.build_index("flat")
    assert memory.search(torch.ones(1, 4, 10), 5, exact=False)[1].tolist() == [[0, 1, 2, 3, 4]]


def test_a_question_gets_the_same_alone_and_in_a_batch():
    memory, query = make_corpus(), queries()
    memory.build_index("ivf_sq8", 16)
    scores, indices = memory.search(query, 5)
    for row in range(12):
        alone = memory.search(query[row : row + 1], 5, block_size=7)
        assert torch.equal(alone[0][0], scores[row]) and torch.equal(alone[1][0], indices[row])


def test_rows_after_the_index_are_searched_exactly():
    memory = make_corpus()
    memory.build_index("ivf_rabitq", 16)
    late = make_corpus(30, first=800)
    memory.append(late)
    scores, indices = memory.search(late[:], 1)
    assert indices.flatten().tolist() == list(range(800, 830))
    assert torch.allclose(scores, torch.ones(30, 1))
    found = memory.search(late[:], 2, where={"document_id": ["d801", "d3", "d829"]})[1]
    assert set(found.flatten().tolist()) <= {801, 3, 829}


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize(
    ("where", "passing"),
    [
        ({"language": "de"}, lambda row: row % 100 == 0),
        ({"year": [3, 4]}, lambda row: row % 20 in (3, 4)),
        ({"year": {">=": 5}, "language": "en"}, lambda row: row % 20 >= 5 and row % 100),
        ({"document_id": "d17"}, lambda row: row == 17),
        (
            lambda fields: fields["year"] == 2 and fields["parent"] > "d4",
            lambda row: row % 20 == 2 and f"d{row}" > "d4",
        ),
    ],
)
def test_filters_return_k_results_if_they_exist(kind, where, passing):
    memory, query = make_corpus(), queries()
    expected = [row for row in range(800) if passing(row)]
    if kind:
        memory.build_index(kind, dimensions=16, questions=queries(80)[:40], tests=queries(80)[40:])
    scores, indices = memory.search(query, 9, where=where)
    assert scores.shape == indices.shape == (12, min(9, len(expected)))
    assert set(indices.flatten().tolist()) <= set(expected)
    assert all(len(set(row)) == len(row) for row in indices.tolist())
    exact = memory.search(query, 9, where=where, exact=True)
    plain = memory.search(query, 800, exact=True)[1].tolist()
    kept = set(expected)
    assert exact[1].tolist() == [[i for i in row if i in kept][:9] for row in plain]
    assert recall(indices, exact[1]) >= 0.95


def test_a_filter_that_nothing_passes():
    memory = make_corpus()
    for exact in (None, True):
        scores, indices = memory.search(queries(), 5, where={"year": 99}, exact=exact)
        assert scores.shape == indices.shape == (12, 0) and indices.dtype == torch.long


def test_too_few_cells_are_no_reason_for_too_few_results():
    memory = make_corpus()
    memory.build_index("ivf_sq8", 16)
    memory.index.effort = type(memory.index.effort)(1.0, 1)
    scores, indices = memory.search(queries(), 300)
    assert indices.shape == (12, 300) and (indices >= 0).all()
    assert all(len(set(row)) == 300 for row in indices.tolist())


def test_filters_are_remembered_until_rows_are_added(monkeypatch):
    memory, calls = make_corpus(), []
    plain = memory.matches
    monkeypatch.setattr(memory, "matches", lambda where: (calls.append(where), plain(where))[1])
    for _ in range(2):
        memory.search(queries(1), 1, where={"year": 3})
    assert len(calls) == 1
    memory.append(make_corpus(30, first=800))
    assert memory.search(queries(1), 100, where={"year": 3})[1].max() > 800
    for year in range(6):
        memory.search(queries(1), 1, where={"year": year})
    assert len(memory._filters) <= 4


def test_matches_of_some_rows():
    assert make_corpus().matches({"year": 3}, [3, 4, 23]).tolist() == [True, False, True]


def test_scores_of_given_rows():
    memory, query = make_corpus(), queries(2)
    scores, indices = memory.search(query, 4)
    shuffled = indices[:, [2, 0, 3, 1]]
    assert torch.equal(memory.scores(query, shuffled), scores[:, [2, 0, 3, 1]])
    shuffled[0, 1] = -1
    assert memory.scores(query, shuffled)[0, 1] == float("-inf")


def test_index_needed_but_not_there():
    with pytest.raises(ValueError, match="`exact` is False, but there is no index"):
        make_memory().search(torch.ones(1, 2, 4), 1, exact=False)
    with pytest.raises(ValueError, match="`where` must map"):
        make_memory().search(torch.ones(1, 2, 4), 1, where={})


@pytest.mark.parametrize("kind", ["flat", "ivf_pq"])
def test_deleted_passages_are_never_found(kind, tmp_path):
    memory, query = make_corpus(), queries()
    memory.build_index(kind, dimensions=16, questions=queries(80)[:40], tests=queries(80)[40:])
    gone = sorted(set(memory.search(query, 5)[1].flatten().tolist()))
    memory.delete([f"d{row}" for row in gone])
    assert memory.index is not None
    found = memory.search(query, 5)[1]
    names = {memory.document_ids[index] for index in found.flatten().tolist()}
    assert found.shape == (12, 5) and not names & {f"d{row}" for row in gone}
    assert recall(found, memory.search(query, 5, exact=True)[1]) >= 0.95
    late = make_corpus(20, first=800)
    memory.append(late)
    assert [
        memory.document_ids[i] for i in memory.search(late[:], 1)[1].flatten().tolist()
    ] == late.document_ids
    filtered = memory.search(query, 5, where={"year": {"<": 10}})[1]
    assert memory.matches({"year": {"<": 10}}, filtered.flatten().tolist()).all()


def test_an_index_follows_deletion_in_its_store(tmp_path):
    memory = make_corpus()
    memory.save_pretrained(tmp_path / "store")
    memory = CorpusMemory.from_pretrained(tmp_path / "store")
    memory.build_index("flat", 16)
    memory.delete(["d3", "d700"])
    memory.save_pretrained(tmp_path / "store")
    memory = CorpusMemory.from_pretrained(tmp_path / "store")
    assert len(memory.index) == 800 and len(memory) == 798
    query = queries()
    assert recall(memory.search(query, 5)[1], memory.search(query, 5, exact=True)[1]) >= 0.95
    memory.build_index("flat", 16)
    assert len(memory.index) == 800
    memory.save_pretrained(tmp_path / "elsewhere")  # without the deleted rows: others get their numbers
    assert memory.index is None
    assert CorpusMemory.from_pretrained(tmp_path / "elsewhere").index is None


def test_an_index_of_rows_not_saved_yet_is_saved_with_them(tmp_path):
    memory = make_corpus()
    memory.save_pretrained(tmp_path)
    memory.append(make_corpus(50, first=800))
    memory.build_index("flat", 16)
    assert len(memory.index) == 850
    memory.save_pretrained(tmp_path)
    assert len(CorpusMemory.from_pretrained(tmp_path).index) == 850
