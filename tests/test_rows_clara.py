import json
import os
import pickle

import pytest
import torch
from clara import blocks_clara
from clara.formats_clara import FORMATS, pack, unpack
from clara.memory_clara import CorpusMemory
from clara.rows_clara import HEADER_BYTES, ChosenMemory, MemoryFile, PackedMemory
from store_helpers import flip, make_memory, read_json
from torch import tensor


def memory_file(folder, dtype="float32", count=5, shape=(2, 4)):
    """The memory file of a store of one shard."""
    CorpusMemory(make_memory(count, shape=shape)[:], ["t"] * count, dtype=dtype).save_pretrained(folder)
    return folder / read_json(folder)["shards"][0]["memory"]["file"]


@pytest.mark.parametrize("dtype", FORMATS)
def test_ram_file_and_chosen_rows_give_the_same(tmp_path, dtype):
    values = make_memory(5)[:]
    parts = pack(values, dtype)
    memory = unpack(parts, dtype)
    file = MemoryFile(memory_file(tmp_path, dtype), (5, 2, 4), dtype)
    ram = PackedMemory.joined([values[:2], values[2:]], dtype)
    for rows in (ram, file, pickle.loads(pickle.dumps(file))):
        assert len(rows) == 5 and rows.dtype == dtype
        for key in (slice(0, 5), slice(1, 3), slice(4, 9), slice(2, 2), tensor([4, 0, 4])):
            assert torch.equal(rows[key], memory[key])
            found = rows.packed(key)
            assert all(torch.equal(a, b[key]) for a, b in zip(found, parts, strict=True))
        chosen = ChosenMemory(rows, tensor([3, 1, 4]).numpy())
        assert len(chosen) == 3 and torch.equal(chosen[slice(1, 3)], memory[[1, 4]])
        assert torch.equal(chosen[tensor([2, 0])], memory[[4, 3]])


def test_a_slice_in_ram_is_a_view():
    values = make_memory(5)[:]
    assert PackedMemory.joined([values], "float32")[1:3].data_ptr() == values[1:].data_ptr()


@pytest.mark.parametrize("dtype", ["float32", "int8", "int4"])
def test_an_altered_block_is_met_when_its_rows_are_read(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(blocks_clara, "BLOCK_BYTES", 64)
    monkeypatch.setattr("clara.rows_clara.BLOCK_BYTES", 64)
    path = memory_file(tmp_path, dtype, 40, (2, 16))
    expected = MemoryFile(path, (40, 2, 16), dtype)[0:40]
    size = {"float32": 128, "int8": 32, "int4": 16}[dtype]
    flip(path, HEADER_BYTES + 20 * size)
    file = MemoryFile(path, (40, 2, 16), dtype)
    assert torch.equal(file[0:15], expected[:15]) and torch.equal(file[tensor([39, 30])], expected[[39, 30]])
    for rows in (tensor([3, 20]), slice(19, 22), slice(0, 40)):
        with pytest.raises(ValueError, match=f"{path.name} was altered between bytes"):
            file[rows]
    assert MemoryFile(path, (40, 2, 16), dtype, checked=True)[20:21].shape == (1, 2, 16)


def test_an_altered_scale_is_met(tmp_path):
    path = memory_file(tmp_path, "int8")
    flip(path, HEADER_BYTES + 5 * 8)
    with pytest.raises(ValueError, match="was altered"):
        MemoryFile(path, (5, 2, 4), "int8")[tensor([0])]


def damage(path, length=None, **tensor_fields):
    """Writes another header in front of the payload of `path`."""
    content = path.read_bytes()
    header = json.loads(content[8:HEADER_BYTES])
    header["memory"].update(tensor_fields)
    text = json.dumps(header).encode()
    length = len(text) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + text + content[HEADER_BYTES:])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "F16"}, "must hold `memory`"),
        ({"dtype": "I32"}, "must hold `memory`"),
        ({"shape": [4, 2, 4]}, "must hold `memory`"),
        ({"shape": [5, 4, 2]}, "must hold `memory`"),
        ({"shape": [-5, 2, 4]}, "must hold `memory`"),
        ({"shape": [10**30, 2, 4]}, "must hold `memory`"),
        ({"data_offsets": [0, 10**15]}, "must hold `memory`"),
        ({"data_offsets": [-160, 0]}, "must hold `memory`"),
        ({"length": 10**15}, "header claims 1000000000000000"),
        ({"length": 0}, "header claims 0"),
        ({"length": 2**64 - 1}, "header claims"),
        ({"length": 7}, "not JSON"),
    ],
)
def test_refuses_a_wrong_header(tmp_path, fields, message):
    path = memory_file(tmp_path)
    damage(path, **fields)
    with pytest.raises(ValueError, match=message):
        MemoryFile(path, (5, 2, 4), "float32")


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"\0" * 8, b"\2" + b"\0" * 7 + b"[]", b"\4" + b"\0" * 7 + b"null"]
)
def test_refuses_what_is_not_safetensors(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="safetensors|must hold"):
        MemoryFile(tmp_path / "a", (5, 2, 4), "float32")


def test_refuses_a_header_nested_without_end(tmp_path):
    text = b"[" * 200_000
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match="not JSON"):
        MemoryFile(tmp_path / "a", (5, 2, 4), "float32")


@pytest.mark.parametrize("change", [-1, 1])
def test_refuses_a_payload_cut_or_grown(tmp_path, change):
    path = memory_file(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"x")
    with pytest.raises(ValueError, match="it was cut or altered"):
        MemoryFile(path, (5, 2, 4), "float32")


def test_many_rows_are_announced_before_they_are_read(tmp_path, monkeypatch):
    path, announced = memory_file(tmp_path, count=20), []
    monkeypatch.setattr(os, "posix_fadvise", lambda *given: announced.append(given[1:]), raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    file = MemoryFile(path, (20, 2, 4), "float32")
    assert torch.equal(file[tensor(range(0, 20, 2))], make_memory(20)[::2])
    assert announced == [(HEADER_BYTES + 32 * row, 32, 3) for row in range(0, 20, 2)]
    file[tensor([1, 2])]
    file[0:20]
    assert len(announced) == 10
    path.unlink()
    assert torch.equal(file[tensor(range(8))], make_memory(20)[:8])
