import json

import pyarrow as pa
import pytest
import torch
from clara.store.schema import (
    MOST_FIELDS,
    Facts,
    check_row,
    empty_fields,
    fit,
    literals,
    merge_fields,
    new_fields,
    pack_rows,
    read_facts,
    row_crc,
    table_schema,
    to_table,
    unpack_row,
)
from memory_helpers import make_memory

FACTS = Facts("f", {"name": "tiny"}, "int8", 128, 128)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", 512), ("bfloat16", 256), ("int8", 128 + 4), ("int4", 64 + 4)]
)
def test_bytes_of_a_packed_vector(dtype, expected):
    facts = FACTS._replace(dtype=dtype)
    rows = pack_rows(torch.randn(3, 128), torch.tensor([0, 1, 3]), dtype)
    assert facts.vector_bytes == expected and [len(row) for row in rows] == [expected, 2 * expected]
    assert unpack_row(rows[1], facts).shape == (2, 128)
    for wrong in (b"", rows[0][:-1]):
        with pytest.raises(ValueError, match="not a multiple"):
            unpack_row(wrong, facts)


def test_facts_come_back():
    assert read_facts(table_schema(FACTS, empty_fields()), "x") == FACTS


@pytest.mark.parametrize("content", [None, b"{}", b"[", b"[" * 5000, b'{"version": 2}', b"[1]"])
def test_other_tables_are_refused(content):
    schema = table_schema(FACTS, empty_fields()).with_metadata(
        None if content is None else {b"clara": content}
    )
    with pytest.raises(ValueError, match="no store of CLaRa"):
        read_facts(schema, "x")
    with pytest.raises(ValueError, match="no store of CLaRa"):
        read_facts(pa.schema([("id", pa.string())], metadata=FACTS.metadata()), "x")


ROW = {
    "id": "a",
    "parent": "b",
    "order": 1,
    "text": "t",
    "metadata_json": "{}",
    "vector": [0.5] * 4,
    "memory": b"m",
}


def test_the_checksum_covers_everything():
    row = {**ROW, "crc": row_crc("a", "b", 1, "t", "{}", b"\x00\x38" * 4, b"m")}
    check_row(row, "x")
    changes = {
        "id": "c",
        "parent": "c",
        "order": 2,
        "text": "tt",
        "metadata_json": "{ }",
        "vector": [0.5] * 3 + [0.25],
    }
    for name, value in {**changes, "memory": b"n", "crc": 0}.items():
        with pytest.raises(ValueError, match="its checksum is wrong"):
            check_row({**row, name: value}, "x")
    assert row_crc("ab", "", 0, "", "", b"", b"") != row_crc("a", "b", 0, "", "", b"", b"")


def test_fields_take_the_kind_of_their_first_value():
    metadata = [
        {"n": 1, "s": "x", "b": True, "deep": {"er": {"f": 0.5}}, "l": ["a"], "none": None, "empty": []},
        {"n": "text", "deep": 3, "s": {"x": 1}, "late": 2.5, "a.b": 1, "": 1, "mixed": [1, "a"], "e": {}},
    ]
    fields = merge_fields(empty_fields(), metadata)
    inner = pa.struct([("er", pa.struct([("f", pa.float64())]))])
    expected = {
        "n": pa.float64(),
        "s": pa.string(),
        "b": pa.bool_(),
        "deep": inner,
        "l": pa.list_(pa.string()),
    }
    got = {field.name: field.type for field in fields}
    empty = got.pop("e")
    assert got == {**expected, "late": pa.float64()} and [field.name for field in empty] == ["_"]
    first, second = (fit(entry, fields) for entry in metadata)
    assert first["n"] == 1.0 and first["deep"] == {"er": {"f": 0.5}} and first["b"] is True
    assert second["n"] is None and second["deep"] is None and second["s"] is None and second["late"] == 2.5
    pa.array([first, second], fields)


def test_a_whole_number_is_not_true():
    fields = pa.struct([("b", pa.bool_()), ("n", pa.float64())])
    assert fit({"b": 1, "n": True}, fields) == {"b": None, "n": None}


def test_new_fields_are_those_that_are_missing():
    old = merge_fields(empty_fields(), [{"a": 1, "d": {"x": 1}}])
    new = merge_fields(old, [{"b": "s", "d": {"y": True}}])
    assert new_fields(old, new) == pa.struct([("d", pa.struct([("y", pa.bool_())])), ("b", pa.string())])
    assert new_fields(old, old) is None


def test_there_is_a_limit_of_fields(caplog):
    fields = merge_fields(empty_fields(), [{f"k{i}": i for i in range(1000)}])
    assert fields.num_fields == MOST_FIELDS and "more than 256 fields" in caplog.text


def test_a_table_holds_rows_that_check_out():
    memory = make_memory(4, width=128)
    facts = FACTS._replace(dtype="bfloat16")
    table = to_table(memory, facts, merge_fields(empty_fields(), memory.metadata))
    for row in table.to_pylist():
        check_row(row, "x")
    assert json.loads(table["metadata_json"][1].as_py())["author"] == {"name": "a1"}


def test_literals_are_quoted():
    assert literals(["a", "it's", "b"]) == "'a', 'it''s', 'b'"
