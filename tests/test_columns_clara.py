import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clara import columns_clara
from clara.columns_clara import Column, Selected, arrow_chunks, open_columns
from clara.passages_clara import COLUMNS, ROWS_PER_GROUP
from store_helpers import columns_of, write_columns


@pytest.mark.parametrize("count", [1, ROWS_PER_GROUP - 1, ROWS_PER_GROUP, 2 * ROWS_PER_GROUP + 1])
def test_round_trip(tmp_path, count):
    write_columns(tmp_path / "a.parquet", columns_of(count))
    columns = open_columns(tmp_path / "a.parquet", count)
    assert {name: list(columns[name]) for name in COLUMNS} == columns_of(count)
    assert columns["text"][count - 1] == str(count - 1)


def test_one_group_is_read_and_kept(tmp_path, monkeypatch):
    write_columns(tmp_path / "a", columns_of(3 * ROWS_PER_GROUP))
    column = open_columns(tmp_path / "a", 3 * ROWS_PER_GROUP)["text"]
    read, plain = [], pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_groups",
        lambda self, groups, columns: (read.append((groups, columns)), plain(self, groups, columns))[1],
    )
    assert [column[row] for row in (2000, 2047, 1024)] == ["2000", "2047", "1024"]
    assert read == [([1], ["text"])]
    assert column[0] == "0" and len(read) == 2


def test_chunks_hold_the_column_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(columns_clara, "GROUPS_AT_ONCE", 2)
    write_columns(tmp_path / "a", columns_of(3000))
    column = open_columns(tmp_path / "a", 3000)["document_id"]
    chunks = list(arrow_chunks(column))
    assert [len(chunk) for chunk in chunks] == [2048, 952]
    assert pa.chunked_array(chunks).to_pylist() == list(column)
    rows = np.array([0, 7, 2047, 2048, 2999])
    chosen = [chunk.to_pylist() for chunk in arrow_chunks(Selected(column, rows))]
    assert chosen == [["0", "7", "2047"], ["2048", "2999"]]
    assert [chunk.to_pylist() for chunk in arrow_chunks(["a", "b"])] == [["a", "b"]]
    assert list(arrow_chunks([])) == []


def test_selected_rows_of_a_column(tmp_path):
    write_columns(tmp_path / "a", columns_of(5))
    for column in (list("01234"), open_columns(tmp_path / "a", 5)["text"]):
        chosen = Selected(column, np.array([1, 2, 4]))
        assert len(chosen) == 3 and list(chosen) == ["1", "2", "4"]
        assert chosen[2] == chosen[-1] == "4" and chosen[1:] == ["2", "4"] and chosen[:0] == []
        assert list(Selected(chosen, np.array([0, 2]))) == ["1", "4"]
        with pytest.raises(IndexError):
            chosen[3]


def test_a_table_whose_name_was_removed_stays_readable(tmp_path):
    write_columns(tmp_path / "a", columns_of(2))
    column = open_columns(tmp_path / "a", 2)["text"]
    (tmp_path / "a").unlink()
    assert list(column) == ["0", "1"]


def test_an_altered_page_is_met_when_it_is_read(tmp_path):
    write_columns(tmp_path / "a", columns_of(2000))
    content = bytearray((tmp_path / "a").read_bytes())
    with pq.ParquetFile(tmp_path / "a") as file:
        chunk = file.metadata.row_group(1).column(COLUMNS.index("text"))
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 4
    (tmp_path / "a").write_bytes(content)
    columns = open_columns(tmp_path / "a", 2000)
    assert columns["text"][0] == "0" and columns["document_id"][1999] == "1999"
    with pytest.raises(ValueError, match="a was altered"):
        columns["text"][1999]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 1000, b"PAR1" + b"\xff" * 500 + b"PAR1"])
def test_refuses_what_is_not_parquet(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        open_columns(tmp_path / "a", 1)


def test_refuses_another_number_of_rows(tmp_path):
    write_columns(tmp_path / "a", columns_of(3))
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
