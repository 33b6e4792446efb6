"""Positions, span pooling and the alignment loss with numbers by hand; buckets, lock, eval mode."""

import copy
import pickle

import pytest
import torch
from clara.adapters_clara import ModelLock, evaluating, every_module
from clara.modeling_clara import alignment_loss, length_groups, positions
from clara.prompts_clara import length_buckets
from torch import nn, tensor


def test_positions_skip_padding_on_either_side():
    mask = tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 1]])
    assert positions(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2], [0, 1, 1, 1, 2]]


def test_positions_of_columns_count_padding():
    mask = tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert positions(mask, "columns").tolist() == [[0, 1, 2, 3, 4]] * 2


def test_alignment_loss_by_hand():
    """Mean states (2, 4) and (1, 1), mean memories (1, 2) and (1, 3): (1 + 4 + 0 + 4) / 4."""
    states = tensor([[[1.0, 3.0], [3.0, 5.0]], [[1.0, 1.0], [50.0, 50.0]]])
    mask = tensor([[1, 1], [1, 0]])
    memory = tensor([[[0.0, 2.0], [2.0, 2.0]], [[1.0, 3.0], [1.0, 3.0]]])
    loss = alignment_loss(states, mask, memory.mean(1))
    assert loss.item() == 2.25 and loss.dtype == torch.float32
    assert alignment_loss(states.bfloat16(), mask, memory.mean(1)).dtype == torch.float32


def test_length_buckets_hold_every_text_once_and_alike():
    texts = ["x" * length for length in (5, 90, 7, 80, 6, 85, 1)]
    buckets = list(length_buckets(texts, 3))
    assert [sorted(bucket) for bucket in buckets] == [[1, 3, 5], [0, 2, 4], [6]]


def test_length_groups_open_a_new_group_below_the_ratio():
    mask = torch.zeros(4, 10)
    for row, length in enumerate((8, 2, 10, 7)):
        mask[row, :length] = 1
    groups = [rows.tolist() for rows in length_groups(mask, ratio=0.75)]
    assert groups == [[0, 2], [3], [1]]
    assert sorted(sum(groups, [])) == [0, 1, 2, 3]


def test_lock_is_reentrant_and_copies_get_their_own():
    lock = ModelLock()
    with lock, lock:
        pass
    for other in (copy.deepcopy(lock), pickle.loads(pickle.dumps(lock))):
        assert type(other) is ModelLock and other is not lock


def test_every_module_comes_once():
    shared = nn.Linear(1, 1)
    model = nn.Sequential(shared, nn.Sequential(shared, nn.Dropout()), shared)
    model.register_module("nothing", None)
    found = list(every_module(model))
    assert len(found) == 4 and set(found) == set(model.modules())


def test_evaluating_restores_the_mode_of_every_module():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(1, 1)))
    model[1].eval()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert [module.training for module in model.modules()] == before


def test_alignment_counts_a_document_as_often_as_it_is_shown():
    states, vectors, mask = torch.randn(2, 3, 4), torch.randn(2, 4), torch.ones(2, 3)
    each = [alignment_loss(states[i : i + 1], mask[i : i + 1], vectors[i : i + 1]) for i in range(2)]
    found = alignment_loss(states, mask, vectors, torch.tensor([3, 1]))
    torch.testing.assert_close(found, (3 * each[0] + each[1]) / 4)
