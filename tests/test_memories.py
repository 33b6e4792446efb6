"""Candidates compressed once; batches that read them from the store."""

import pytest
import torch
from clara.data.collation import Item
from clara.data.records import QuestionRecord
from clara.train.memories import EndToEndCollator, pools, store_candidates
from conftest import DOCUMENTS, make_model
from training_helpers import BRIDGE, QUESTION_ROWS, RHINE, TITAN


@pytest.fixture(scope="module")
def stored(shared_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "memory"
    return *store_candidates(shared_model, QUESTION_ROWS, folder), folder


def test_every_candidate_is_stored_once_in_the_order_of_the_rows(stored):
    memory, places, _ = stored
    assert list(memory.texts) == list(places) and len(memory) == 6
    assert list(places.items())[:3] == [(BRIDGE, 0), (TITAN, 1), (RHINE, 2)]


def test_memories_are_those_of_compressing(stored, shared_model):
    batch = shared_model.processor.encode_documents([RHINE])
    with torch.no_grad():
        expected = shared_model.compress(**batch)[0]
    torch.testing.assert_close(stored[0][2], expected, atol=1e-5, rtol=0)


def test_the_store_is_opened_again_and_not_made_again(stored, shared_model, monkeypatch):
    monkeypatch.setattr(type(shared_model), "compress", None)
    again, places = store_candidates(shared_model, QUESTION_ROWS, stored[2])
    assert torch.equal(again[:], stored[0][:]) and places == stored[1]


def test_the_candidates_are_found_in_the_store_of_a_corpus(shared_model, tmp_path):
    documents = ["Something else.", RHINE, BRIDGE, "And this.", TITAN]
    shared_model.build_memory(documents, show_progress=False).save_pretrained(tmp_path)
    rows = [QuestionRecord("Q?", ("a",), (BRIDGE, TITAN)), QuestionRecord("R?", ("a",), (TITAN, RHINE))]
    memory, places = store_candidates(shared_model, rows, tmp_path)
    assert len(memory) == 5 and places == {BRIDGE: 2, TITAN: 4, RHINE: 1}


def test_a_store_that_lacks_a_candidate_is_refused(shared_model, tmp_path):
    shared_model.build_memory([BRIDGE, RHINE], show_progress=False).save_pretrained(tmp_path)
    rows = [QuestionRecord("Q?", ("a",), (BRIDGE, TITAN, RHINE))]
    with pytest.raises(ValueError, match=r"no memory of 1 of the 3 candidates, first .*: name another `mem"):
        store_candidates(shared_model, rows, tmp_path)


def test_a_store_of_another_compressor_is_refused(stored, base):
    other = make_model(base)
    with torch.no_grad():
        other.memory_tokens += 1
    with pytest.raises(ValueError, match="another compressor or base"):
        store_candidates(other, QUESTION_ROWS, stored[2])


def test_a_store_cut_off_while_it_was_written_is_made_again(shared_model, tmp_path):
    (tmp_path / "memory-00000.tmp").write_bytes(b"half")
    memory, _ = store_candidates(shared_model, QUESTION_ROWS, tmp_path)
    assert len(memory) == 6
    assert len(store_candidates(shared_model, QUESTION_ROWS, tmp_path)[0]) == 6


def test_a_long_candidate_is_its_first_passage(shared_model, tmp_path, caplog):
    long = QuestionRecord("Q?", ("a",), (" ".join(DOCUMENTS), BRIDGE))
    memory, places = store_candidates(shared_model, [long], tmp_path)
    assert len(memory) == 2 and " ".join(DOCUMENTS).startswith(memory.texts[0])
    assert places == {" ".join(DOCUMENTS): 0, BRIDGE: 1}
    assert "1 of 2 candidates exceed doc_max_length" in caplog.text


def test_pools_are_padded_at_the_end(stored):
    places, mask, positives = pools(QUESTION_ROWS[:2], stored[1])
    assert places.tolist() == [[0, 1, 2, 0], [3, 1, 0, 2]]
    assert mask.tolist() == [[True] * 3 + [False], [True] * 4]
    assert positives.tolist() == [[True, False, False, False], [False, True, False, False]]


def test_a_batch_holds_each_questions_memories(stored, shared_model):
    memory, places, _ = stored
    collator = EndToEndCollator(shared_model.processor, memory, places, retrieval_top_k=2)
    batch = collator([Item(i, 0, QUESTION_ROWS[i]) for i in (0, 1)])
    assert batch["memory"].shape == (2, 4, 4, 32)
    assert torch.equal(batch["memory"][1, 3], memory[2])
    assert batch["query_input_ids"].shape[0] == 2
    assert ((batch["input_ids"] == -1).sum(-1) == 2 * 4).all()
    collator.num_memory_tokens = (3,)
    batch = collator([Item(0, 0, QUESTION_ROWS[0])])
    assert batch["num_memory_tokens"] == 3 and (batch["input_ids"] == -1).sum() == 2 * 3


def test_a_pool_smaller_than_k_is_refused(stored, shared_model):
    collator = EndToEndCollator(shared_model.processor, *stored[:2], 4)
    with pytest.raises(ValueError, match="3 candidates, fewer than `retrieval_top_k` = 4"):
        collator([Item(0, 0, QUESTION_ROWS[0])])


def test_as_retrieved_pools_without_gold_documents_train_too(shared_model, tmp_path):
    rows = [QuestionRecord("Who found Titan?", ("Huygens",), (BRIDGE, RHINE))]
    memory, places = store_candidates(shared_model, rows, tmp_path)
    batch = EndToEndCollator(shared_model.processor, memory, places, 2)([Item(0, 0, rows[0])])
    assert not batch.pop("positives").any()
    assert shared_model(**batch).loss.isfinite()


def test_a_copy_of_a_positive_is_in_the_pool_once_and_positive():
    record = QuestionRecord("Who found Titan?", ("Huygens",), ("basalt", "titan", "titan", "rhine"), (2,))
    places, mask, positives = pools([record], {"basalt": 7, "titan": 3, "rhine": 5})
    assert places.tolist() == [[7, 3, 5]] and mask.all()
    assert positives.tolist() == [[False, True, False]]
