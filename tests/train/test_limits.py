"""The limit of time."""

import time
from types import SimpleNamespace

from clara.train import limits
from clara.train.limits import TimeLimitCallback
from transformers import TrainerControl

STATE = SimpleNamespace(global_step=3, max_steps=9)


def test_it_saves_and_stops_once_the_time_is_up(monkeypatch):
    clock = iter([100.0, 159.0, 160.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    callback, control = TimeLimitCallback(1.0), TrainerControl()
    callback.on_step_end(SimpleNamespace(world_size=1), STATE, control)
    assert not control.should_save and not control.should_training_stop
    callback.on_step_end(SimpleNamespace(world_size=1), STATE, control)
    assert control.should_save and control.should_training_stop


def test_the_first_process_decides(monkeypatch):
    monkeypatch.setattr(limits, "broadcast_object_list", lambda values: values.__setitem__(0, False))
    callback, control = TimeLimitCallback(0.0), TrainerControl()
    callback.on_step_end(SimpleNamespace(world_size=2), STATE, control)
    assert not control.should_training_stop
