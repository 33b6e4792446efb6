"""Memory and FLOP budgets of a CLaRa model from its shape alone. Units: bytes, FLOPs, seconds.

Rules used (dense decoder, LoRA on a frozen base):

* forward 2 FLOPs per base weight and token; a training step 4 (no gradients of the frozen weights), 6 with
  activation checkpointing, whose recomputation is not needed work;
* a trained adapter weight takes 16 bytes: bf16 weight and gradient, fp32 master and two AdamW moments; a
  frozen one 2;
* activations with checkpointing: one bf16 state of width H per layer and token, one layer's inner states,
  and the logits of labelled tokens with their gradient in fp32.
"""

from dataclasses import dataclass

TRAINED_BYTES, FROZEN_BYTES = 16, 2
BASE_BYTES = {"bf16": 2.0, "4-bit": 0.5625}  # 4-bit: blocks of 64 with a scale
USABLE = 0.9  # share of a GPU's memory that is left to the tensors


@dataclass(frozen=True)
class Shape:
    """Counts of one model.

    Attributes:
        base: weights of the base LM.
        layer: weights of one of its layers.
        adapter: weights of one adapter.
        layers: number of layers.
        width: H.
        inner: width of the feed-forward part.
        vocabulary: number of tokens.
        memory_tokens: M.
    """

    base: int
    layer: int
    adapter: int
    layers: int
    width: int
    inner: int
    vocabulary: int
    memory_tokens: int


@dataclass(frozen=True)
class Load:
    """Work of one GPU in one training step.

    Attributes:
        tokens: tokens through the base, compressor and generator together.
        labels: tokens that carry loss.
        trained_adapters: adapters that train in the stage (2 in every stage of the paper).
    """

    tokens: int
    labels: int
    trained_adapters: int = 2


@dataclass(frozen=True)
class Layout:
    """GPUs and how the weights lie on them.

    Attributes:
        gpus: how many.
        gpu_bytes: memory of each.
        sharded: whether base, adapters and optimizer are sharded over all of them (FSDP, ZeRO-3), or
            replicated.
        base_dtype: a key of `BASE_BYTES`.
    """

    gpus: int
    gpu_bytes: float
    sharded: bool
    base_dtype: str = "bf16"


def training_bytes(shape: Shape, load: Load, layout: Layout) -> dict[str, float]:
    """Peak bytes on one GPU in training, by part, with their `total`."""
    share = layout.gpus if layout.sharded else 1
    per_weight = BASE_BYTES[layout.base_dtype]
    frozen = 3 - load.trained_adapters
    parts = {
        "base": shape.base * per_weight / share,
        "gathered": 2 * shape.layer * per_weight if layout.sharded else 0.0,
        "adapters": shape.adapter * (load.trained_adapters * TRAINED_BYTES + frozen * FROZEN_BYTES) / share,
        "activations": activation_bytes(shape, load),
    }
    return {**parts, "total": sum(parts.values())}


def activation_bytes(shape: Shape, load: Load) -> float:
    """Bytes of activations and logits with activation checkpointing."""
    kept = 2 * shape.layers * load.tokens * shape.width
    inside = 2 * load.tokens * (8 * shape.width + 3 * shape.inner)
    return float(kept + inside + 2 * 4 * load.labels * shape.vocabulary)


def fits(shape: Shape, load: Load, layout: Layout) -> bool:
    """Whether training fits into `USABLE` of each GPU."""
    return training_bytes(shape, load, layout)["total"] <= USABLE * layout.gpu_bytes


def training_flops(shape: Shape, tokens: float) -> float:
    """Needed FLOPs to train on tokens through the frozen base, without recomputation."""
    return 4.0 * shape.base * tokens


def compression_flops(shape: Shape, document_tokens: float) -> float:
    """FLOPs to compress one document of L tokens: forward over L + M tokens."""
    return 2.0 * shape.base * (document_tokens + shape.memory_tokens)


def memory_bytes(shape: Shape) -> int:
    """Bytes of one document's memory in bf16: 2·M·H."""
    return 2 * shape.memory_tokens * shape.width
