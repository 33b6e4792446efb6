"""How far a measured time is from what this machine could do: required work over the measured peak.

Required are, for each token, 2 operations a weight of the body, the causal half of attention, and the head
where a logit is needed; and one reading of the weights a pass. Adapters, norms and padding are not required.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .timing import synchronize

MATRIX = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
TRIES = 5


@dataclass(frozen=True)
class Work:
    """Required operations and bytes of one pass."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Roof:
    """Measured peaks of a device.

    Attributes:
        dtype: Dtype of the matrices.
        matrix: Their width.
        flops: Operations a second of a large matrix product.
        bandwidth: Bytes a second of a large copy, read and written.
    """

    dtype: str
    matrix: int
    flops: float
    bandwidth: float

    def seconds(self, work: Iterable[Work]) -> float:
        """The shortest time for passes one after another, each bound by its operations or its bytes."""
        return sum(max(item.flops / self.flops, item.bytes / self.bandwidth) for item in work)

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)


@torch.no_grad()
def measure_roof(device: torch.device, dtype: torch.dtype, matrix: int | None = None) -> Roof:
    """Measures both peaks, the best of a few tries.

    Args:
        device: The device.
        dtype: Dtype of the matrix product.
        matrix: Width of the matrices; 2048 on a CPU, 8192 on a GPU.
    """
    size = matrix or MATRIX.get(device.type, MATRIX["cuda"])
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    product = best_of(lambda: left @ right, device)
    count = COPY_BYTES.get(device.type, COPY_BYTES["cuda"]) if matrix is None else matrix
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = best_of(lambda: target.copy_(source), device)
    return Roof(str(dtype).removeprefix("torch."), size, 2.0 * size**3 / product, 2.0 * count / copy)


def best_of(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the fastest of a few calls after one that does not count."""
    function()
    seconds = []
    for _ in range(TRIES):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@dataclass(frozen=True)
class Shape:
    """Counts of one base model that decide the required work.

    Attributes:
        body: Weights of the body, without embeddings and adapters.
        head: Weights of the LM head.
        layers: Number of layers.
        queries: Width of all attention heads together.
        keys: Width of all key heads together.
        itemsize: Bytes of a weight.
    """

    body: int
    head: int
    layers: int
    queries: int
    keys: int
    itemsize: int

    def read(self, lengths: Sequence[int], logits: int) -> Work:
        """One pass over texts of these lengths, with so many positions of logits."""
        pairs = sum(length * (length + 1) / 2 for length in lengths)
        flops = 2.0 * self.body * sum(lengths) + 4.0 * self.layers * self.queries * pairs
        weights = self.body + (self.head if logits else 0)
        return Work(flops + 2.0 * self.head * logits, float(weights * self.itemsize))

    def write(self, lengths: Sequence[int], steps: int) -> list[Work]:
        """Passes that each add one token to texts of these lengths, with keys and values kept."""
        works = []
        for step in range(steps):
            context = sum(lengths) + len(lengths) * (step + 1)
            flops = 2.0 * (self.body + self.head) * len(lengths) + 4.0 * self.layers * self.queries * context
            kept = 2 * self.layers * self.keys * context
            works.append(Work(flops, float((self.body + self.head + kept) * self.itemsize)))
        return works


def shape_of(model: Any) -> Shape:
    """The counts of a CLaRa model's base."""
    config = model.config.get_text_config()
    table = model.decoder.get_input_embeddings().weight
    body = sum(
        parameter.numel()
        for name, parameter in model.decoder.base_model.named_parameters()
        if ".lora_" not in name and parameter is not table
    )
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    return Shape(
        body=body,
        head=table.numel(),
        layers=config.num_hidden_layers,
        queries=heads * width,
        keys=keys * width,
        itemsize=table.element_size(),
    )
