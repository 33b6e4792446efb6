"""Passages of past batches: the newest are kept, and go into a checkpoint and out of it."""

import pytest
import torch
from clara.train.past import PastPassages, passage_keys
from conftest import make_model
from training_helpers import make_args, make_trainer


def test_the_newest_are_kept():
    past = PastPassages(3)
    past.push(["a", "b"], torch.eye(4)[:2])
    past.push(["c", "d"], torch.eye(4)[2:])
    assert past.keys == ["b", "c", "d"]
    assert torch.equal(past.vectors, torch.eye(4)[1:])


def test_scores_are_cosines_and_a_copy_is_no_negative():
    past = PastPassages(2)
    past.push(["a", "b"], torch.tensor([[2.0, 0.0], [3.0, 4.0]]))
    scores, others = past.scores(torch.tensor([[1.0, 0.0], [0.0, 5.0]]), ["b", "c"])
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0.6], [0.0, 0.8]]))
    assert others.tolist() == [[True, False], [True, True]]


def test_texts_that_are_cut_alike_have_one_key(shared_model):
    """Padding does not count; what the compressor reads does."""
    long = "word " * 100
    texts = [long + "one", long + "two", "word", "other"]
    batch = shared_model.processor.encode_documents(texts, truncation=True)
    keys = passage_keys(batch["input_ids"], batch["attention_mask"])
    alone = shared_model.processor.encode_documents(texts[2:3], truncation=True)
    assert keys[0] == keys[1] and len(set(keys)) == 3
    assert passage_keys(alone["input_ids"], alone["attention_mask"]) == keys[2:3]


def test_each_process_finds_its_own_again(tmp_path):
    for process in (0, 1):
        past = PastPassages(2)
        past.push([f"of {process}"], torch.full((1, 2), float(process)))
        past.save(tmp_path, process)
    again = PastPassages(2)
    again.load(tmp_path, 1)
    assert again.keys == ["of 1"] and again.vectors.tolist() == [[1.0, 1.0]]


def test_none_yet_go_into_a_checkpoint_too(base, tmp_path):
    """A run in which no question could be matched yet is gone on with all the same."""
    fields = {"contrastive_weight": 1.0, "past_passages": 4}
    trainer = make_trainer(make_model(base), tmp_path, **fields)
    trainer._save_rng_state(str(tmp_path))
    trainer._load_rng_state(str(tmp_path))
    assert len(trainer._past) == 0
    trainer._past.push(["a"], torch.ones(1, 2))
    assert trainer._past.vectors.shape == (1, 2)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"past_passages": -1, "contrastive_weight": 1.0}, "`past_passages` must be at least 0, got -1"),
        ({"past_passages": 8}, "`past_passages` = 8 works beside the contrastive loss of pretraining"),
        (
            {"past_passages": 8, "contrastive_weight": 1.0, "stage": "end_to_end"},
            "`past_passages` = 8 works beside the contrastive loss of pretraining",
        ),
        ({"matched_questions": 0}, "`matched_questions` must be at least 1, got 0"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(tmp_path, fields, told):
    with pytest.raises(ValueError, match=told):
        make_args(tmp_path, **fields)
