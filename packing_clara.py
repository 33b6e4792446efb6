"""Packing of memories (int8, int4), the checks of a memory's passages, and of its files.

Letters of the shapes: N passages, T all vectors of all passages, H hidden width.
"""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FORMATS = (*FLOATS, "int8", "int4")
PACKED_KINDS = {**FLOATS, "int8": torch.int8, "int4": torch.uint8}
GROUP = 64  # values of a vector that share one scale in int8 and int4


def format_name(dtype: torch.dtype | str) -> str:
    """The name of a format in which memories are kept, from its name or from a torch dtype.

    Raises:
        ValueError: If memories cannot be kept so.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in FORMATS:
        raise ValueError(f"`dtype` must be one of {', '.join(FORMATS)}, got {dtype}.")
    return name


@torch.no_grad()
def pack(values: Tensor, dtype: str) -> dict[str, Tensor]:
    """Packs vectors in a format.

    Args:
        values: (T, H), of any float dtype.
        dtype: A float dtype's name; "int8", or "int4" with two values in a byte: both keep one bfloat16 scale
            for 64 neighbouring values.

    Returns:
        `values` (T, H) or (T, H / 2), and `scales` (T, H / 64) beside int8 and int4.

    Raises:
        ValueError: If a value is NaN, infinite or too large for the format, or H is odd with int4.
    """
    if dtype in FLOATS:
        return {"values": check_finite(values.to(FLOATS[dtype]))}
    if dtype == "int4" and values.shape[1] % 2:
        raise ValueError(f"`dtype` int4 packs pairs, but the width {values.shape[1]} is odd: use int8.")
    most = 127 if dtype == "int8" else 7
    groups = check_finite(values).float().unflatten(-1, (-1, math.gcd(values.shape[-1], GROUP)))
    scales = (groups.abs().amax(-1) / most).to(torch.bfloat16)
    divisors = scales.float().masked_fill(scales == 0, 1.0).unsqueeze(-1)
    steps = (groups / divisors).round().clamp(-most, most).flatten(-2)
    if dtype == "int8":
        return {"values": steps.to(torch.int8), "scales": scales}
    pairs = (steps + 8).to(torch.uint8)
    return {"values": pairs[:, 0::2] | pairs[:, 1::2] << 4, "scales": scales}


@torch.no_grad()
def unpack(parts: Mapping[str, Tensor], dtype: str) -> Tensor:
    """Vectors (T, H) from what `pack` returned: of the format's own dtype, float32 for int8 and int4."""
    values = parts["values"]
    if dtype in FLOATS:
        return values
    if dtype == "int4":
        values = torch.stack([values & 15, values >> 4], -1).flatten(-2).to(torch.int8) - 8
    groups = values.float().unflatten(-1, (parts["scales"].shape[-1], -1))
    return (groups * parts["scales"].float().unsqueeze(-1)).flatten(-2)


def check_finite(values: Tensor) -> Tensor:
    """Returns vectors (T, H) that hold no NaN and no infinity; raises ValueError, which names the row."""
    wrong = ~torch.isfinite(values).all(dim=-1) if len(values) else torch.zeros(0)
    if wrong.any():
        raise ValueError(
            f"`values[{int(wrong.nonzero()[0])}]` holds NaN, an infinity or a value too large for its dtype: "
            "compress the document again, or choose another `dtype`."
        )
    return values


def check_passages(
    rows: int,
    texts: Sequence[str],
    document_ids: Sequence[str] | None,
    metadata: Sequence[Mapping[str, Any]] | None,
    parents: Sequence[str] | None,
    orders: Sequence[int] | None,
) -> dict[str, list]:
    """Checks the passages of `rows` memories and returns them as the columns of `SCHEMA`, defaults filled in.

    Raises:
        ValueError: If a list has another length or an entry another kind, a text is no valid Unicode,
            metadata are not JSON, an id occurs twice, or a document has a place twice. The message names the
            index.
    """
    ids = [str(row) for row in range(rows)] if document_ids is None else document_ids
    parents = ids if parents is None else parents
    given = {
        "texts": texts,
        "document_ids": ids,
        "metadata": [{}] * rows if metadata is None else metadata,
        "parents": parents,
        "orders": _running(parents) if orders is None else orders,
    }
    for name, entries in given.items():
        if isinstance(entries, str) or len(entries) != rows:
            got = "one string" if isinstance(entries, str) else f"{len(entries)} entries"
            raise ValueError(f"`{name}` must have one entry for each of the {rows} memories, got {got}.")
    columns = {
        "id": _strings("document_ids", ids),
        "text": _strings("texts", texts),
        "parent": _strings("parents", parents),
        "order": [_order(index, order) for index, order in enumerate(given["orders"])],
        "metadata": [json_text(index, entry) for index, entry in enumerate(given["metadata"])],
    }
    check_unique("document_ids", columns["id"])
    check_unique("parents, orders", list(zip(columns["parent"], columns["order"], strict=True)))
    return columns


def _running(parents: Sequence[str]) -> list[int]:
    seen: Counter = Counter()
    orders = []
    for parent in parents:
        orders.append(seen[parent])
        seen[parent] += 1
    return orders


def _strings(name: str, entries: Sequence[str]) -> list[str]:
    for index, entry in enumerate(entries):
        if not isinstance(entry, str):
            raise ValueError(f"`{name}[{index}]` must be a string, got {entry!r}: convert it with str().")
        try:
            entry.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"`{name}[{index}]` is not valid Unicode (a lone surrogate at character {error.start}): "
                "replace it, for "
                "instance with .encode('utf-8', 'replace').decode()."
            ) from error
    return list(entries)


def _order(index: int, order: int) -> int:
    if isinstance(order, bool) or not isinstance(order, int) or not 0 <= order < 2**63:
        raise ValueError(f"`orders[{index}]` must be a whole number of at least 0, got {order!r}.")
    return order


def json_text(index: int, entry: Mapping[str, Any]) -> str:
    """Metadata as JSON text; raises ValueError, which names the index, if they cannot be written so."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"`metadata[{index}]` must be a mapping, got {type(entry).__name__}.")
    try:
        text = json.dumps(dict(entry), allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"`metadata[{index}]` cannot be written as JSON: {error}.") from error
    return text


def check_unique(name: str, entries: Sequence) -> None:
    """Raises a `ValueError` that names the entry if one occurs twice."""
    if len(set(entries)) < len(entries):
        twice, times = Counter(entries).most_common(1)[0]
        places = [index for index, entry in enumerate(entries) if entry == twice][:2]
        raise ValueError(
            f"`{name}` must be unique, got {twice!r} {times} times, first at {places}: rename one."
        )


def check_ragged(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Checks ragged memories and returns them on the CPU, without a graph.

    Args:
        values: (T, H).
        offsets: (N + 1,).

    Raises:
        ValueError: If shapes or dtypes are others, or offsets do not ascend from 0 to T.
    """
    if values.dim() != 2 or values.dtype not in FLOATS.values() or 0 in values.shape:
        raise ValueError(
            f"`values` must be (T, H) of {', '.join(FLOATS)}, with one vector at least, got "
            f"{tuple(values.shape)} of "
            f"{values.dtype}."
        )
    offsets = offsets.detach().cpu()
    right = offsets.dim() == 1 and offsets.dtype == torch.int64 and len(offsets) > 1
    if not right or offsets[0] != 0 or offsets[-1] != len(values) or (offsets.diff() < 1).any():
        raise ValueError(
            f"`offsets` must be (N + 1,) int64 that ascend from 0 to {len(values)}, one vector a passage "
            "at least, got "
            f"{tuple(offsets.shape)} of {offsets.dtype}."
        )
    return values.detach().cpu(), offsets


def check_kin(other: Any, fingerprint: str | None, hidden_size: int, width: int) -> None:
    """Checks that a memory was made by the same model.

    Raises:
        ValueError: If its fingerprint, H or D differ; says what to do.
    """
    if other.fingerprint != fingerprint:
        raise ValueError(
            f"`other` has fingerprint {other.fingerprint}, this memory {fingerprint}: another compressor "
            "or base made "
            "it; build it again with this memory's model."
        )
    got = (other.values.shape[1], other.vectors.shape[1])
    if got != (hidden_size, width):
        raise ValueError(
            f"`other` has (H, D) = {got}, this memory {(hidden_size, width)}: they must be equal."
        )


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
