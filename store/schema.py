"""The rows of a store: their Arrow schema, their checksums, and the fields by which filters see metadata.

Letters of the shapes: N passages, m_i vectors of passage i, H hidden width, D width of a search vector.
"""

import json
import logging
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..retrieval_clara import FLOATS, FORMATS, GROUP, pack, unpack

logger = logging.getLogger(__name__)

VERSION = 1
FACTS = b"clara"  # key of the table's metadata
ROW = ("id", "parent", "order", "text", "metadata_json", "vector", "memory")
MOST_FIELDS = 256
KINDS = {bool: pa.bool_(), str: pa.string(), int: pa.float64(), float: pa.float64()}
PLACEHOLDER = "_"  # a struct in a table needs one field


class Facts(NamedTuple):
    """What all rows of a store share; it is kept in the table's metadata.

    Attributes:
        fingerprint: Identity of the compressor, memory tokens and base that made the memories.
        base: Name and revision of the base model.
        dtype: Format of the packed memories.
        hidden_size: H.
        width: D.
    """

    fingerprint: str | None
    base: dict[str, Any] | None
    dtype: str
    hidden_size: int
    width: int

    def metadata(self) -> dict[bytes, bytes]:
        """As metadata of an Arrow schema."""
        return {FACTS: json.dumps({"version": VERSION, **self._asdict()}).encode()}

    @property
    def vector_bytes(self) -> int:
        """Bytes of one packed vector, its scales included."""
        if self.dtype in FLOATS:
            return self.hidden_size * FLOATS[self.dtype].itemsize
        values = self.hidden_size if self.dtype == "int8" else self.hidden_size // 2
        return values + 2 * self.scales

    @property
    def scales(self) -> int:
        """Scales of one vector in int8 and int4."""
        return self.hidden_size // int(np.gcd(self.hidden_size, GROUP))


def read_facts(schema: pa.Schema, uri: str) -> Facts:
    """The facts in a table's metadata.

    Raises:
        ValueError: If the table is no store of CLaRa, or of another version.
    """
    try:
        facts = json.loads((schema.metadata or {})[FACTS])
        version = facts.pop("version")
        read = Facts(**facts)
        right = version == VERSION and read.dtype in FORMATS and {*ROW, "crc"} <= {*schema.names}
    except (KeyError, TypeError, ValueError, RecursionError):
        right = False
    if not right:
        raise ValueError(f"The table at {uri} is no store of CLaRa of version {VERSION}: give another path.")
    return read


def table_schema(facts: Facts, fields: pa.StructType) -> pa.Schema:
    """The schema of a store whose metadata have these fields."""
    texts = {b"lance-encoding:compression": b"zstd"}
    plain = {b"lance-encoding:compression": b"none"}
    return pa.schema(
        [
            pa.field("id", pa.string()),
            pa.field("parent", pa.string()),
            pa.field("order", pa.int64()),
            pa.field("text", pa.large_string(), metadata=texts),
            pa.field("metadata_json", pa.large_string(), metadata=texts),
            pa.field("metadata", fields),
            pa.field("vector", pa.list_(pa.float16(), facts.width), metadata=plain),
            pa.field("memory", pa.large_binary(), metadata=plain),
            pa.field("crc", pa.uint32()),
        ],
        metadata=facts.metadata(),
    )


def to_table(memory: Any, facts: Facts, fields: pa.StructType) -> pa.Table:
    """The passages of a corpus memory as rows.

    Args:
        memory: A `CorpusMemory` of the store's model.
        facts: The store's.
        fields: As of `merge_fields`.

    Raises:
        ValueError: If a value is too large for the format.
    """
    units = torch.nn.functional.normalize(memory.vectors.float(), dim=1).numpy().astype(np.float16)
    metadata = list(memory.metadata)
    columns = {
        "id": list(memory.document_ids),
        "parent": list(memory.parents),
        "order": list(memory.orders),
        "text": list(memory.texts),
        "metadata_json": [json.dumps(entry, ensure_ascii=False, allow_nan=False) for entry in metadata],
        "metadata": pa.array([fit(entry, fields) for entry in metadata], fields),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(units.ravel()), facts.width),
        "memory": pack_rows(memory.values, memory.offsets, facts.dtype),
    }
    columns["crc"] = [
        row_crc(*row, vector.tobytes(), packed)
        for *row, vector, packed in zip(
            *(columns[name] for name in ROW[:-2]), units, columns["memory"], strict=True
        )
    ]
    return pa.table(columns, schema=table_schema(facts, fields))


def row_crc(id_: str, parent: str, order: int, text: str, metadata: str, vector: bytes, memory: bytes) -> int:
    """CRC-32 over everything that a passage is."""
    crc = 0
    for part in (id_, parent, str(order), text, metadata):
        content = part.encode()
        crc = zlib.crc32(content, zlib.crc32(len(content).to_bytes(8, "little"), crc))
    return zlib.crc32(memory, zlib.crc32(vector, crc))


def pack_rows(values: Tensor, offsets: Tensor, dtype: str) -> list[bytes]:
    """Packed memories (N) of ragged ones (T, H): all values of a passage, then all its scales."""
    parts = [
        part.contiguous().view(torch.uint8).numpy().reshape(len(part), -1)
        for part in pack(values, dtype).values()
    ]
    bounds = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    return [b"".join(part[start:stop].tobytes() for part in parts) for start, stop in bounds]


def unpack_row(content: bytes, facts: Facts) -> Tensor:
    """The memory (m_i, H) of packed bytes.

    Raises:
        ValueError: If there are not whole vectors in them.
    """
    count, rest = divmod(len(content), facts.vector_bytes)
    if rest or not count:
        raise ValueError(f"a memory has {len(content)} bytes, not a multiple of {facts.vector_bytes}")
    flat = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    if facts.dtype in FLOATS:
        return flat.view(FLOATS[facts.dtype]).view(count, -1)
    split = len(content) - 2 * count * facts.scales
    kind = torch.int8 if facts.dtype == "int8" else torch.uint8
    parts = {
        "values": flat[:split].view(kind).view(count, -1),
        "scales": flat[split:].clone().view(torch.bfloat16).view(count, -1),
    }
    return unpack(parts, facts.dtype)


def check_row(row: Mapping[str, Any], uri: str) -> None:
    """Raises ValueError if a row of the columns `ROW` and `crc` is not what was written; names its id."""
    *columns, vector, memory = (row[name] for name in ROW)
    there = all(row[name] is not None for name in ROW)
    content = np.asarray(vector, np.float16).tobytes() if there else b""
    if not there or row_crc(*columns, content, memory) != row["crc"]:
        raise ValueError(
            f"The passage {row['id']!r} in {uri} was altered (its checksum is wrong): delete and append "
            "its document, "
            "or restore an earlier version."
        )


def merge_fields(fields: pa.StructType, metadata: Iterable[Mapping[str, Any]]) -> pa.StructType:
    """The fields of a store once these metadata are in it: those that are there, and new ones.

    A field has the kind of its first value: string, number, True or False, a list of one of these, or fields
    of its own. At most 256; what has no place stays in the passage's metadata, but no filter sees it.
    """
    tree = _tree(fields)
    for entry in metadata:
        _grow(tree, entry)
    if _count(tree) > MOST_FIELDS:
        logger.warning("Metadata have more than %d fields: filters see the first ones only.", MOST_FIELDS)
        tree = _first(tree, [MOST_FIELDS])
    return _struct(tree)


def _tree(fields: pa.StructType) -> dict[str, Any]:
    return {
        field.name: _tree(field.type) if pa.types.is_struct(field.type) else field.type
        for field in fields
        if field.name != PLACEHOLDER
    }


def _grow(tree: dict[str, Any], entry: Mapping[str, Any]) -> None:
    for name, value in entry.items():
        if not name or "." in name or "`" in name or name == PLACEHOLDER:
            continue
        if isinstance(value, Mapping):
            if isinstance(tree.setdefault(name, {}), dict):
                _grow(tree[name], value)
        elif name not in tree and (kind := kind_of(value)) is not None:
            tree[name] = kind


def kind_of(value: Any) -> pa.DataType | None:
    """The type of a field with this value; None if no filter can see it."""
    if isinstance(value, list):
        kinds = {KINDS.get(type(item)) for item in value}
        kind = kinds.pop() if len(kinds) == 1 else None
        return None if kind is None else pa.list_(kind)
    return KINDS.get(type(value))


def _count(tree: Mapping[str, Any]) -> int:
    return sum(_count(kind) if isinstance(kind, dict) else 1 for kind in tree.values())


def _first(tree: Mapping[str, Any], left: list[int]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, kind in tree.items():
        if isinstance(kind, dict):
            kept[name] = _first(kind, left)
        elif left[0] > 0:
            kept[name] = kind
            left[0] -= 1
    return kept


def _struct(tree: Mapping[str, Any]) -> pa.StructType:
    fields = [(name, _struct(kind) if isinstance(kind, dict) else kind) for name, kind in tree.items()]
    return pa.struct(fields or [(PLACEHOLDER, pa.bool_())])


def fit(entry: Any, fields: pa.StructType) -> dict[str, Any] | None:
    """What filters see of a mapping: the values of the fields' kinds, None where there is no such value."""
    if not isinstance(entry, Mapping):
        return None
    seen: dict[str, Any] = {}
    for field in fields:
        value = entry.get(field.name)
        if pa.types.is_struct(field.type):
            seen[field.name] = fit(value, field.type)
        else:
            seen[field.name] = _number(value) if kind_of(value) == field.type else None
    return seen


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def new_fields(old: pa.StructType, new: pa.StructType) -> pa.StructType | None:
    """The fields of `new` that `old` lacks, nested as they are; None if there are none."""
    there = {field.name: field.type for field in old}
    missing: list[tuple[str, pa.DataType]] = []
    for field in new:
        if field.name not in there:
            missing.append((field.name, field.type))
        elif pa.types.is_struct(field.type):
            inner = new_fields(there[field.name], field.type)
            missing += [] if inner is None else [(field.name, inner)]
    return pa.struct(missing) if missing else None


def empty_fields() -> pa.StructType:
    """The fields of a store without metadata."""
    return _struct({})


def literals(values: Sequence[str]) -> str:
    """Strings as a list of SQL literals."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)
