"""Stored candidates of end-to-end training: compressed once, found again, padded, filled from the corpus."""

import pytest
import torch
from clara.data.collation import Item
from clara.data.records import QuestionRecord
from clara.train.memories import EndToEndCollator, filled, pools, store_candidates
from conftest import DOCUMENTS, QUESTIONS, make_model

RECORDS = [
    QuestionRecord(QUESTIONS[0], ("1890",), tuple(DOCUMENTS[:3]), (0,)),
    QuestionRecord(QUESTIONS[1], ("Huygens",), tuple(DOCUMENTS[2:4]), (0,)),
]


@pytest.fixture(scope="module")
def mean_model(base):
    return make_model(base, pooling="mean", compression_rate=4)


def test_every_candidate_is_stored_once_and_as_compressed(mean_model, tmp_path):
    found = store_candidates(mean_model, RECORDS, tmp_path / "memory", others=[DOCUMENTS[5], DOCUMENTS[0]])
    assert found.texts == [*DOCUMENTS[:4], DOCUMENTS[5]]
    values, offsets, vectors = mean_model.compress_texts(found.texts)
    torch.testing.assert_close(found.values, values, atol=1e-5, rtol=0)
    assert torch.equal(found.offsets, offsets)
    torch.testing.assert_close(found.vectors, vectors, atol=1e-5, rtol=0)


def test_stored_memories_are_opened_again_and_others_refused(mean_model, base, tmp_path, monkeypatch):
    first = store_candidates(mean_model, RECORDS, tmp_path)
    monkeypatch.setattr(mean_model, "compress", None)
    assert torch.equal(store_candidates(mean_model, RECORDS, tmp_path).values, first.values)
    with pytest.raises(ValueError, match="another compressor or of other candidates"):
        store_candidates(mean_model, RECORDS[:1], tmp_path)
    with pytest.raises(ValueError, match="another compressor or of other candidates"):
        store_candidates(make_model(base, pooling="mean", compression_rate=8), RECORDS, tmp_path)


def test_pools_are_padded_at_the_end():
    places = {text: number for number, text in enumerate(DOCUMENTS)}
    found, mask, positives = pools(RECORDS, places)
    assert found.tolist() == [[0, 1, 2], [2, 3, 0]]
    assert mask.tolist() == [[True] * 3, [True, True, False]]
    assert positives.tolist() == [[True, False, False], [True, False, False]]


def test_copies_are_in_a_pool_once_and_positive_if_one_of_them_is():
    """Documents that begin alike are one memory, so one place."""
    places = {"a": 0, "a too": 0, "b": 1}
    found, mask, positives = pools([QuestionRecord("Q?", ("x",), ("a", "b", "a too"), (2,))], places)
    assert (found.tolist(), mask.tolist(), positives.tolist()) == ([[0, 1]], [[True] * 2], [[True, False]])


def test_pools_are_filled_with_the_nearest_and_hold_nothing_twice():
    places, mask = torch.tensor([[4, 7], [5, 0]]), torch.tensor([[True, True], [True, False]])
    positives = torch.tensor([[True, False], [True, False]])
    near = torch.tensor([[7, 9, 4, 1], [0, 5, 8, 2]])
    found, usable, gold = filled(places, mask, positives, near, 4)
    assert found.tolist() == [[4, 7, 9, 1], [5, 0, 8, 2]]
    assert usable.all() and gold.tolist() == [[True, False, False, False]] * 2


def test_a_batch_names_the_candidates_and_a_pool_below_k_is_refused(mean_model, tmp_path):
    found = store_candidates(mean_model, RECORDS, tmp_path)
    items = [Item(number, 0, record) for number, record in enumerate(RECORDS)]
    batch = EndToEndCollator(mean_model.processor, found, 2)(items)
    assert batch["candidate_indices"].tolist() == [[0, 1, 2], [2, 3, 0]]
    memory = found.batch(batch["candidate_indices"], 16)
    assert memory["memory"].shape == (2, 3, 16, 32) and memory["memory_vectors"].shape == (2, 3, 32)
    with pytest.raises(ValueError, match="fewer than `retrieval_top_k` = 3"):
        EndToEndCollator(mean_model.processor, found, 3)(items)
