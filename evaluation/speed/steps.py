"""Optimizer steps as the trainer makes them, with weights that stay as they are; and their peak memory."""

import ctypes
import gc
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from clara.adapters_clara import wearing
from clara.data.collation import Item
from clara.modeling_clara import positions
from clara.retrieval_clara import Memories
from clara.train.optimizer import MasterAdamW
from clara.train.stages import get_stage, prepare_stage
from torch import Tensor

from .timing import WALL, measure

UNREAD = ("positives", "query_texts")  # of a batch, by the model
LOW = (torch.bfloat16, torch.float16)
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Stepper:
    """Forward, backward, clipping and AdamW at a learning rate of 0: all of the work, no change.

    Args:
        model: A CLaRa model; it is put at the start of the stage and into training mode.
        stage: The stage.
    """

    def __init__(self, model: Any, stage: str) -> None:
        prepare_stage(model, stage)
        self.model = model.train()
        self.alignment_weight = get_stage(stage).alignment_weight
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        low = any(parameter.dtype in LOW for parameter in self.parameters)
        kind = MasterAdamW if low else torch.optim.AdamW
        self.optimizer = kind(self.parameters, lr=0.0, weight_decay=0.0)

    def __call__(self, batch: Mapping[str, Any]) -> float:
        """One step over a collator's batch; returns the answers' loss."""
        inputs = {name: value for name, value in self.moved(batch).items() if name not in UNREAD}
        outputs = self.model(**inputs)
        loss = outputs.loss
        if outputs.alignment_loss is not None:
            loss = loss + self.alignment_weight * outputs.alignment_loss
        self.update(loss)
        return float(outputs.loss.detach())

    def update(self, loss: Tensor) -> None:
        """Backward and the optimizer."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def moved(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch on the model's device."""
        device = self.model.device
        return {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}

    def with_all_logits(self, batch: Mapping[str, Any]) -> float:
        """The same step with logits of every position and the base's own loss over them."""
        inputs = self.moved(batch)
        memory = self.model.compress(inputs["document_input_ids"], inputs["document_attention_mask"])
        places = inputs["document_indices"]
        rows = Memories(memory.values[places], memory.counts[places]).rows()
        embeds = self.model.fill_slots(inputs["input_ids"], rows)
        mask = inputs["attention_mask"]
        with self.model.lock, wearing(self.model.decoder, "generator"):
            loss = self.model.decoder(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=positions(mask),
                labels=inputs["labels"],
                use_cache=False,
            ).loss
        self.update(loss)
        return float(loss.detach())


def peak_bytes(function: Callable[[], Any], device: torch.device) -> int | None:
    """How far memory grows while a function runs: allocated on a GPU, resident on a CPU under Linux.

    Returns:
        Bytes above those in use at the start; None where the system does not tell.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - start
    if not RESET.exists():
        return None
    give_back()
    RESET.write_text("5")
    start = resident_peak()
    function()
    return resident_peak() - start


def give_back() -> None:
    """Hands freed heap back to the system, where the C library can: kept, it would hide a growth."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_peak() -> int:
    """The largest resident memory of this process, in bytes, since it was last reset."""
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"))
    return int(found.group(1)) * 1024


def times(runs: Mapping[str, Callable[[int], float]], repeats: int, model: Any) -> dict[str, list[float]]:
    """Seconds of every round of each variant; the losses that the variants return are dropped."""

    def quiet(run: Callable[[int], float]) -> Callable[[int], None]:
        def call(number: int) -> None:
            run(number)

        return call

    found = measure({name: quiet(run) for name, run in runs.items()}, repeats, model.device)
    return {name: marks[WALL] for name, marks in found.items()}


def grouped(records: Sequence[Any], size: int) -> list[list[Item]]:
    """Items in batches of `size`."""
    return chunks([Item(index, 0, record) for index, record in enumerate(records)], size)


def chunks(items: Sequence[Any], size: int) -> list[list[Any]]:
    """Consecutive batches."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
