"""The formats of stored memories: float32, float16, bfloat16, int8 and int4; packing and unpacking.

int8 and int4 keep one bfloat16 scale for up to 64 neighbouring values, since one value of a memory token can
be many times larger than all others; int4 packs two values in a byte. Both are read as float32. Of the mode
`recompute` nothing is stored but texts.

Letters of the shapes: n memories, M memory tokens, H hidden width, G values that share a scale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .recompute_clara import RECOMPUTE

MEMORY, SCALE = "memory", "scale"
GROUP = 64
CHECKED_ROWS = 1024
TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FORMATS = (*TORCH, "int8", "int4")
MODES = (*FORMATS, RECOMPUTE)
# Safetensors' code, torch's dtype, and numpy's of the same width (it has no bfloat16).
KINDS = {
    "F32": (torch.float32, np.float32),
    "F16": (torch.float16, np.float16),
    "BF16": (torch.bfloat16, np.uint16),
    "I8": (torch.int8, np.int8),
    "U8": (torch.uint8, np.uint8),
}
PLAIN_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Part:
    """One tensor of a stored memory: its name, its safetensors code and its shape for one passage."""

    name: str
    code: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one passage."""
        return math.prod(self.shape) * np.dtype(KINDS[self.code][1]).itemsize


def format_name(dtype: torch.dtype | str) -> str:
    """The name of a format in the manifest, from its name or from a torch dtype.

    Raises:
        ValueError: If memories cannot be stored so.
    """
    names = {**{name: name for name in MODES}, **{kind: name for name, kind in TORCH.items()}}
    if isinstance(dtype, (str, torch.dtype)) and dtype in names:
        return names[dtype]
    raise ValueError(f"`dtype` must be one of {', '.join(MODES)}, got {dtype}.")


def read_dtype(name: str) -> torch.dtype:
    """The torch dtype in which memories of a format are read: their own, or float32."""
    return TORCH.get(name, torch.float32)


def parts_of(name: str, shape: tuple[int, int]) -> tuple[Part, ...]:
    """The tensors in which memories of `shape` (M, H) are stored.

    Raises:
        ValueError: If the format is int4 and H is odd.
    """
    tokens, width = shape
    if name == RECOMPUTE:
        return ()
    if name in PLAIN_CODES:
        return (Part(MEMORY, PLAIN_CODES[name], (tokens, width)),)
    scales = Part(SCALE, "BF16", (tokens, width // math.gcd(width, GROUP)))
    if name == "int8":
        return Part(MEMORY, "I8", (tokens, width)), scales
    if width % 2:
        raise ValueError(f"`dtype` int4 packs pairs of values, but the width {width} is odd: use int8.")
    return Part(MEMORY, "U8", (tokens, width // 2)), scales


def memory_bytes(name: str, shape: tuple[int, int]) -> int:
    """Bytes of one stored memory (M, H)."""
    return sum(part.row_bytes for part in parts_of(name, shape))


def check_memory(memory: Tensor) -> Tensor:
    """Checks memories (n, M, H) and returns them on the CPU, without a graph.

    Raises:
        ValueError: If the shape is not (n, M, H) with all of them at least 1, the dtype is not float32,
            float16 or bfloat16, or a memory holds NaN or an infinity (names its row).
    """
    if not isinstance(memory, Tensor) or memory.dim() != 3 or 0 in memory.shape:
        got = tuple(memory.shape) if isinstance(memory, Tensor) else type(memory).__name__
        raise ValueError(f"`memory` must be a tensor (N, M, H) of at least one document, got {got}.")
    if memory.dtype not in TORCH.values():
        raise ValueError(
            f"`memory` must be one of {', '.join(TORCH)}, got {memory.dtype}: convert it with .to()."
        )
    memory = memory.detach().cpu()
    for start in range(0, len(memory), CHECKED_ROWS):
        rows = memory[start : start + CHECKED_ROWS].flatten(1)
        finite = torch.isfinite(rows.amax(dim=1)) & torch.isfinite(rows.amin(dim=1))
        if not finite.all():
            row = start + int((~finite).nonzero()[0])
            raise ValueError(f"`memory[{row}]` holds NaN or an infinity: compress the document again.")
    return memory


@torch.no_grad()
def pack(memory: Tensor, name: str) -> tuple[Tensor, ...]:
    """Packs memories (n, M, H) into the tensors of a format (`parts_of`).

    Raises:
        ValueError: As `check_memory`, also if a value is too large for float16; as `parts_of`.
    """
    if name in TORCH:
        return (check_memory(memory.to(TORCH[name])),)
    memory = check_memory(memory).float()
    parts_of(name, memory.shape[1:])
    most = 127 if name == "int8" else 7
    groups = memory.unflatten(-1, (-1, math.gcd(memory.shape[-1], GROUP)))
    scale = (groups.abs().amax(-1) / most).to(torch.bfloat16)
    steps = _steps(groups, scale.float(), most).flatten(-2)
    if name == "int8":
        return steps.to(torch.int8), scale
    pairs = (steps + 8).to(torch.uint8)
    return pairs[..., 0::2] | pairs[..., 1::2] << 4, scale


def _steps(values: Tensor, scale: Tensor, most: int) -> Tensor:
    """Values (…, G) in whole steps of their scale (…), from -most to most."""
    scale = scale.masked_fill(scale == 0, 1.0).unsqueeze(-1)
    return (values / scale).round().clamp(-most, most)


@torch.no_grad()
def unpack(parts: Sequence[Tensor], name: str) -> Tensor:
    """Memories (n, M, H) from the tensors of a format; a view of them where the format is a torch dtype."""
    if name in TORCH:
        return parts[0]
    values, scale = parts
    if name == "int4":
        values = torch.stack([values & 15, values >> 4], -1).flatten(-2).to(torch.int8) - 8
    groups = values.float().unflatten(-1, (scale.shape[-1], -1))
    return (groups * scale.float().unsqueeze(-1)).flatten(-2)
