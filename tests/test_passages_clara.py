import numpy as np
import pyarrow.parquet as pq
import pytest
from clara.passages_clara import check_passages
from store_helpers import columns_of, write_columns


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


def test_bytes_do_not_depend_on_batches(tmp_path):
    write_columns(tmp_path / "a", columns_of(3000))
    write_columns(tmp_path / "b", columns_of(1, 0), columns_of(1998, 1), columns_of(1001, 1999))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pq.ParquetFile(tmp_path / "a").metadata.num_row_groups == 3
