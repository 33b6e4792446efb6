import pytest
import torch
from clara.memory_clara import CorpusMemory
from clara.shards_clara import MemoryFile
from store_helpers import DTYPES, PLACES, make_memory, seven_passages
from torch import tensor


@pytest.fixture(params=PLACES)
def table(request, tmp_path):
    return seven_passages(request.param, tmp_path)


def test_indexing(table):
    rows = torch.stack([table[row] for row in range(7)])
    assert rows.shape == (7, 2, 4)
    assert len({tuple(row) for row in rows.flatten(1).tolist()}) == 7
    assert torch.equal(table[-1], rows[6]) and torch.equal(table[-7], rows[0])
    for key in (slice(None), slice(1, 6), slice(2, 3), slice(-3, None), slice(5, 2), slice(None, None, 2)):
        assert torch.equal(table[key], rows[key])
    assert torch.equal(table[::-1], rows.flip(0))
    for row in (7, -8):
        with pytest.raises(IndexError):
            table[row]


def test_gather(table):
    rows = table[:]
    for indices in ([[0, 6], [3, 3]], [[2]], [[6, 5, 4, 3, 2, 1, 0]]):
        found = table.gather(tensor(indices))
        assert torch.equal(found, rows[tensor(indices)])
    assert table.gather(tensor([4, 0])).shape == (2, 2, 4)
    assert table.gather(torch.empty(2, 0, dtype=torch.long)).shape == (2, 0, 2, 4)


@pytest.mark.parametrize("bad", [7, -1, 10**12])
def test_gather_out_of_range(table, bad):
    with pytest.raises(IndexError, match=f"from 0 to 6, got {bad}"):
        table.gather(tensor([[0, bad]]))


@pytest.mark.parametrize("indices", [tensor([0.0]), tensor([True])])
def test_gather_refuses_what_is_no_index(table, indices):
    with pytest.raises(TypeError, match="whole numbers"):
        table.gather(indices)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_keeps_the_dtype(tmp_path, dtype):
    memory = make_memory(4, dtype=dtype)
    memory.save_pretrained(tmp_path)
    found = CorpusMemory.from_pretrained(tmp_path).gather(tensor([[3, 1]]))
    assert found.dtype == dtype and torch.equal(found[0, 0], memory[3])


def test_gather_reads_each_touched_row_once(tmp_path, monkeypatch):
    make_memory(7).save_pretrained(tmp_path, max_shard_size=3 * 32)
    memory = CorpusMemory.from_pretrained(tmp_path)
    read, plain = [], MemoryFile.__getitem__
    monkeypatch.setattr(
        MemoryFile, "__getitem__", lambda self, rows: (read.append(rows), plain(self, rows))[1]
    )
    memory.gather(tensor([[6, 1], [0, 1]]))
    assert [rows.tolist() for rows in read] == [[1, 0, 1], [0]]


def test_columns(table):
    assert len(table.texts) == 7
    assert table.texts[5] == "text 5" and table.texts[-1] == "text 6"
    assert table.document_ids[2:4] == ["d2", "d3"]
    assert list(table.parents) == [f"d{row}" for row in range(7)]
    assert [entry["number"] for entry in table.metadata] == list(range(7))
    assert table.orders == [0] * 7
    assert "text 3" in table.texts and table.texts.index("text 3") == 3
    with pytest.raises(IndexError):
        table.texts[7]


def test_metadata_is_a_copy(table):
    table.metadata[0]["number"] = 9
    assert table.metadata[0] == {"number": 0}
