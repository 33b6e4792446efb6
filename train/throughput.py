"""Required floating-point operations of a step, tokens per second, and model FLOP utilisation."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..processing_clara import IGNORE_INDEX

# Dense bf16 peaks in TFLOP/s, from the makers' data sheets, by a part of the device's name.
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "A10": 125.0, "4090": 165.0}


class StepFlops:
    """Counts the operations that a training step requires.

    A token through the frozen base with adapters costs 4 N: 2 N forward and 2 N for the gradient of the
    activations (no gradient of the base's weights), N being the body's parameters without embeddings. A
    labelled token costs 4 V H in the head. Attention's quadratic part, the adapters and recomputation do not
    count.

    Args:
        model: A CLaRa model.
    """

    def __init__(self, model: nn.Module) -> None:
        decoder = model.decoder
        table = decoder.get_input_embeddings().weight
        body = decoder.base_model
        named = [(name, p) for name, p in body.named_parameters() if ".lora_" not in name and p is not table]
        self.body = sum(parameter.numel() for _, parameter in named)
        self.head = table.shape[0] * table.shape[1]
        self.num_memory_tokens = (
            model.config.num_memory_tokens if model.config.pooling == "memory_tokens" else 0
        )

    def tokens(self, batch: Mapping[str, Tensor]) -> int:
        """Tokens that pass through the body: documents, questions (each with memory tokens) and prompts."""
        count = int(batch["attention_mask"].sum()) if "attention_mask" in batch else 0
        for name in ("document_attention_mask", "query_attention_mask", "match_attention_mask"):
            if name in batch:
                count += int(batch[name].sum()) + len(batch[name]) * self.num_memory_tokens
        return count

    def __call__(self, batch: Mapping[str, Tensor]) -> float:
        """Operations of one forward and backward pass over a batch."""
        labelled = int((batch["labels"] != IGNORE_INDEX).sum()) if "labels" in batch else 0
        return 4.0 * (self.body * self.tokens(batch) + self.head * labelled)


class Throughput:
    """Tokens and operations of this process per second of training; evaluating and saving do not count.

    Args:
        model: A CLaRa model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.flops = StepFlops(model)
        self._work, self._tokens = 0.0, 0
        self._start = time.perf_counter()

    def add(self, batch: Mapping[str, Tensor]) -> None:
        """Counts one forward and backward pass over a batch."""
        self._work += self.flops(batch)
        self._tokens += self.flops.tokens(batch)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of a block of code out."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - before

    def pop(self, peak_tflops: float | None = None) -> dict[str, float]:
        """`tokens_per_second`, `tflops` and, where the peak is known, `mfu` since the last call."""
        seconds = time.perf_counter() - self._start
        speed = {"tokens_per_second": self._tokens / seconds, "tflops": self._work / seconds / 1e12}
        if peak_tflops:
            speed["mfu"] = speed["tflops"] / peak_tflops
        self._work, self._tokens, self._start = 0.0, 0, time.perf_counter()
        return speed


def device_peak_tflops(device: torch.device) -> float | None:
    """Dense bf16 peak of a known GPU in TFLOP/s; None for anything else."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
