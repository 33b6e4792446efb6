import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clara.passages_clara import COLUMNS, ROWS_PER_GROUP, Column, PassageWriter, check_passages, open_columns


def columns_of(count, first=0):
    names = [str(first + row) for row in range(count)]
    return check_passages(count, names, names, [{"n": name} for name in names])


def write(path, *parts):
    writer = PassageWriter(path)
    for part in parts:
        writer.write(part)
    writer.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": ["a"]}, "`texts` must have one entry for each of the 2 memories, got 1 entries"),
        ({"texts": "ab"}, "`texts`.*got one string"),
        ({"texts": ["a", None]}, r"`texts\[1\]` must be a string, got None"),
        ({"texts": ["a", b"b"]}, r"`texts\[1\]`"),
        (
            {"texts": ["a", "x\ud83d"]},
            r"`texts\[1\]` is not valid Unicode \(a lone surrogate at character 1\)",
        ),
        ({"document_ids": ["a", 1]}, r"`document_ids\[1\]` must be a string, got 1: convert it with str"),
        ({"document_ids": ["a", "a"]}, "must be unique, got 'a' at 0 and 1"),
        ({"document_ids": ["a", "\udcff"]}, r"`document_ids\[1\]` is not valid Unicode"),
        ({"document_ids": ["a"]}, "`document_ids` must have one entry"),
        ({"parents": ["a", 0]}, r"`parents\[1\]`"),
        ({"orders": [0, -1]}, r"`orders\[1\]` must be a whole number of at least 0, got -1"),
        ({"orders": [0, 1.0]}, r"`orders\[1\]`"),
        ({"orders": [0, True]}, r"`orders\[1\]`"),
        ({"orders": [0, 2**63]}, r"`orders\[1\]`"),
        ({"orders": [0]}, "`orders` must have"),
        ({"metadata": [{}, "x"]}, r"`metadata\[1\]` must be a mapping, got str"),
        ({"metadata": [{}, {"a": {1, 2}}]}, r"`metadata\[1\]` cannot be written as JSON"),
        ({"metadata": [{}, {"a": float("nan")}]}, r"`metadata\[1\]` cannot be written as JSON"),
        ({"metadata": [{}, {("a",): 1}]}, r"`metadata\[1\]` cannot be written as JSON"),
        ({"metadata": [{}]}, "`metadata` must have"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_passages(2, **{"texts": ["a", "b"], **arguments})


def test_numpy_orders_are_refused_by_name_and_lists_of_them_convert():
    with pytest.raises(ValueError, match=r"`orders\[0\]`"):
        check_passages(1, ["a"], orders=np.array([0]))
    assert check_passages(1, ["a"], orders=np.array([3]).tolist())["order"] == [3]


@pytest.mark.parametrize("count", [1, ROWS_PER_GROUP - 1, ROWS_PER_GROUP, 2 * ROWS_PER_GROUP + 1])
def test_round_trip(tmp_path, count):
    write(tmp_path / "a.parquet", columns_of(count))
    columns = open_columns(tmp_path / "a.parquet", count)
    assert {name: list(columns[name]) for name in COLUMNS} == columns_of(count)
    assert columns["text"][count - 1] == str(count - 1)


def test_bytes_do_not_depend_on_batches(tmp_path):
    write(tmp_path / "a", columns_of(3000))
    write(tmp_path / "b", columns_of(1, 0), columns_of(1998, 1), columns_of(1001, 1999))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pq.ParquetFile(tmp_path / "a").metadata.num_row_groups == 3


def test_one_group_is_read_and_kept(tmp_path, monkeypatch):
    write(tmp_path / "a", columns_of(3 * ROWS_PER_GROUP))
    column = open_columns(tmp_path / "a", 3 * ROWS_PER_GROUP)["text"]
    read, plain = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, **kwargs: (read.append((group, kwargs["columns"])), plain(self, group, **kwargs))[
            1
        ],
    )
    assert [column[row] for row in (2000, 2047, 1024)] == ["2000", "2047", "1024"]
    assert read == [(1, ["text"])]
    assert column[0] == "0" and len(read) == 2


def test_a_table_that_is_gone_is_named(tmp_path):
    write(tmp_path / "a", columns_of(2))
    column = open_columns(tmp_path / "a", 2)["text"]
    (tmp_path / "a").unlink()
    with pytest.raises(ValueError, match="cannot be read any more"):
        column[0]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 1000, b"PAR1" + b"\xff" * 500 + b"PAR1"])
def test_refuses_what_is_not_parquet(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        open_columns(tmp_path / "a", 1)


def test_refuses_another_number_of_rows(tmp_path):
    write(tmp_path / "a", columns_of(3))
    with pytest.raises(ValueError, match="has 3 passages but the manifest says 4"):
        open_columns(tmp_path / "a", 4)


def test_refuses_missing_columns_and_other_types(tmp_path):
    table = pa.table({"document_id": ["a"], "text": pa.array([1]), "order": pa.array([0])})
    pq.write_table(table, tmp_path / "a")
    with pytest.raises(ValueError, match=r"\['text', 'parent', 'metadata'\]"):
        open_columns(tmp_path / "a", 1)


def test_column_is_list_like():
    column = Column([["a", "b"], ["c"]])
    assert column == ["a", "b", "c"] and column == ("a", "b", "c") and column == Column([["a"], ["b", "c"]])
    assert column != ["a", "b"] and column != ["a", "b", "x"] and column != "abc"
    assert column[-1] == "c" and column[1:] == ["b", "c"] and column[np.int64(2)] == "c"
    assert list(reversed(column)) == ["c", "b", "a"]
    assert repr(column) == "['a', 'b', 'c'] (3 entries)"
    assert repr(Column([list("abcd")])) == "['a', 'b', 'c', …] (4 entries)"
    with pytest.raises(TypeError):
        hash(column)
