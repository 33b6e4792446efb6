"""The order of rows."""

from types import SimpleNamespace

import pytest
from clara.data.collation import RecordDataset
from clara.data.records import PretrainingRecord
from clara.train.sampling import EpochCallback, EpochSampler, draw


def dataset(count=100):
    return RecordDataset([PretrainingRecord("x" * (1 + i * 7 % count)) for i in range(count)])


@pytest.mark.parametrize("bucket", [True, False])
def test_every_row_once_an_epoch_in_an_order_of_seed_and_epoch(bucket):
    orders = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        sampler = EpochSampler(dataset(), 8, bucket, seed)
        sampler.set_epoch(epoch)
        orders[seed, epoch] = [key - 100 * epoch for key in sampler]
        assert sorted(orders[seed, epoch]) == list(range(100))
        assert [key - 100 * epoch for key in sampler] == orders[seed, epoch]
    assert len({tuple(order) for order in orders.values()}) == 3
    assert len(sampler) == 100


def test_rows_of_a_step_are_similar_in_length():
    rows = dataset(400)
    lengths = rows.lengths()

    def padded(bucket):
        order = list(EpochSampler(rows, 8, bucket, 0))
        steps = [order[i : i + 8] for i in range(0, 400, 8)]
        return sum(8 * max(lengths[i] for i in step) for step in steps)

    assert padded(True) < 1.1 * sum(lengths) < 1.5 * sum(lengths) < padded(False)


def test_long_steps_are_spread_over_the_epoch():
    rows = dataset(400)
    lengths = rows.lengths()
    order = list(EpochSampler(rows, 8, True, 0))
    means = [sum(lengths[i] for i in order[start : start + 8]) / 8 for start in range(0, 400, 8)]
    assert means != sorted(means) and means != sorted(means, reverse=True)
    assert min(means[:10]) < 200 < max(means[:10])


def test_a_half_full_step_comes_last():
    order = list(EpochSampler(dataset(10), 4, True, 0))
    assert len(order) == 10


@pytest.mark.parametrize(("epoch", "expected"), [(None, 0), (0, 0), (1.0, 1), (1.75, 1)])
def test_the_callback_tells_the_epoch_also_after_a_resume(epoch, expected):
    callback = EpochCallback()
    callback.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)
    callback.sampler = EpochSampler(dataset(4), 2, False, 0)
    callback.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)
    assert callback.sampler.epoch == expected


def test_a_draw_keeps_the_order_and_is_the_seeds():
    rows = [f"row {number}" for number in range(20)]
    drawn = draw(rows, 5, seed=3)
    assert len(drawn) == 5 and drawn == [row for row in rows if row in drawn]
    assert drawn == draw(rows, 5, seed=3) and drawn != draw(rows, 5, seed=4)
    assert draw(rows, None) == draw(rows, 20) == draw(rows, 99) == rows and draw(rows, 0) == []
