"""A limit of time for one command: the run is saved and stops, and the next command goes on."""

import logging
import math
import time
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)


class TimeLimitCallback(TrainerCallback):
    """Stops after the optimizer step in which the time is up, with a checkpoint.

    Args:
        minutes: Minutes from now.
    """

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The first process decides for all, whose clocks differ."""
        up = [time.monotonic() >= self.end]
        if args.world_size > 1:
            broadcast_object_list(up)
        if up[0]:
            logger.warning("time is up at step %d of %d: saved to go on", state.global_step, state.max_steps)
            control.should_save = control.should_training_stop = True


class TimedCosine:
    """Factor of the learning rate that reaches 0 when the time or the steps are up, whichever comes first.

    Args:
        minutes: Minutes from now.
        steps: Steps of the whole run.
        warmup_steps: Steps of linear warm-up.
    """

    def __init__(self, minutes: float, steps: int, warmup_steps: int) -> None:
        self.start, self.seconds = time.monotonic(), 60 * minutes
        self.steps, self.warmup_steps = steps, warmup_steps

    def __call__(self, step: int) -> float:
        """The factor at a step, now."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = max(step / self.steps, (time.monotonic() - self.start) / self.seconds)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
