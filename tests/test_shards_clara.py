import json

import pytest
import torch
from clara.passages_clara import check_passages
from clara.shards_clara import (
    HEADER_BYTES,
    MemoryFile,
    ShardWriter,
    check_memory,
    dtype_name,
    file_sha256,
    open_shard,
)
from safetensors import safe_open
from safetensors.torch import save_file
from store_helpers import DTYPES, make_memory
from torch import tensor

COLUMNS = check_passages(5, list("abcde"))


def write(folder, memory, *splits):
    writer = ShardWriter(folder, 3, memory.shape[1:], memory.dtype)
    for start, stop in zip((0, *splits), (*splits, len(memory)), strict=True):
        writer.write(memory[start:stop], {name: values[start:stop] for name, values in COLUMNS.items()})
    return writer.close()


@pytest.mark.parametrize("dtype", DTYPES)
def test_safetensors_reads_what_is_written(tmp_path, dtype):
    memory = make_memory(5, dtype=dtype)[:]
    entry = write(tmp_path, memory, 2)
    with safe_open(tmp_path / entry.memory.file, "pt") as file:
        assert list(file.keys()) == ["memory"]
        assert torch.equal(file.get_tensor("memory"), memory)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_what_safetensors_writes(tmp_path, dtype):
    memory = make_memory(5, dtype=dtype, shape=(1, 3))[:]
    save_file({"memory": memory}, tmp_path / "a.safetensors", metadata={"some": "note"})
    file = MemoryFile(tmp_path / "a.safetensors", (5, 1, 3), dtype_name(dtype))
    assert torch.equal(file[0:5], memory)
    assert torch.equal(file[tensor([4, 0])], memory[[4, 0]])


def test_entry_describes_the_files(tmp_path):
    entry = write(tmp_path, make_memory(5)[:])
    for file in entry.files():
        assert (tmp_path / file.file).stat().st_size == file.bytes
        assert file_sha256(tmp_path / file.file) == file.sha256
        assert f"-00003-{file.sha256[:8]}." in file.file
    assert entry.rows == entry.live_rows == 5 and entry.deleted is None
    assert entry.memory.bytes == HEADER_BYTES + 5 * 2 * 4 * 4
    assert len(list(tmp_path.iterdir())) == 2


def test_bytes_do_not_depend_on_batches(tmp_path):
    assert write(tmp_path, make_memory(5)[:], 1, 3) == write(tmp_path, make_memory(5)[:])


def test_writes_rows_that_are_not_contiguous(tmp_path):
    memory = make_memory(5, shape=(4, 2))[:].transpose(1, 2)
    entry = write(tmp_path, memory)
    shard = open_shard(tmp_path / entry.memory.file, tmp_path / entry.texts.file, (5, 2, 4), "float32")
    assert torch.equal(shard.memory[0:5], memory)


def test_abort_leaves_nothing(tmp_path):
    writer = ShardWriter(tmp_path, 0, (2, 4), torch.float32)
    writer.write(make_memory(5)[:], COLUMNS)
    writer.abort()
    assert list(tmp_path.iterdir()) == []


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
    path = tmp_path / write(tmp_path, make_memory(5)[:]).memory.file
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
    path = tmp_path / write(tmp_path, make_memory(5)[:]).memory.file
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"x")
    with pytest.raises(ValueError, match="it was cut or altered"):
        MemoryFile(path, (5, 2, 4), "float32")


def test_check_memory_names_the_first_bad_row():
    memory = torch.zeros(3000, 1, 2)
    memory[2500, 0, 1] = -float("inf")
    memory[2900] = float("nan")
    with pytest.raises(ValueError, match=r"`memory\[2500\]`"):
        check_memory(memory)
