"""A limit of time for one command: the run is saved and stops, and the next command goes on."""

import logging
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
