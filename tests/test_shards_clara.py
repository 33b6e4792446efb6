import pytest
import torch
from clara.formats_clara import FORMATS, format_name, pack
from clara.passages_clara import check_passages
from clara.rows_clara import HEADER_BYTES
from clara.shards_clara import ShardWriter, file_sha256, open_shard
from safetensors.torch import load_file
from store_helpers import make_memory

COLUMNS = check_passages(5, list("abcde"))


def write(folder, memory, *splits, dtype=None):
    dtype = dtype or format_name(memory.dtype)
    writer = ShardWriter(folder, 3, memory.shape[1:], dtype)
    for start, stop in zip((0, *splits), (*splits, len(memory)), strict=True):
        columns = {name: values[start:stop] for name, values in COLUMNS.items()}
        writer.write(pack(memory[start:stop], dtype), columns)
    return writer.close()


@pytest.mark.parametrize("dtype", FORMATS)
def test_safetensors_reads_what_is_written(tmp_path, dtype):
    memory = make_memory(5)[:]
    entry = write(tmp_path, memory, 2, dtype=dtype)
    tensors = load_file(tmp_path / entry.memory.file)
    assert tensors.pop("checksums").dtype == torch.uint32
    parts = pack(memory, dtype)
    assert list(tensors) == ["memory", "scale"][: len(parts)]
    assert all(torch.equal(tensors[name], part) for name, part in zip(tensors, parts, strict=True))


def test_entry_describes_the_files(tmp_path):
    entry = write(tmp_path, make_memory(5)[:])
    for file in entry.files():
        assert (tmp_path / file.file).stat().st_size == file.bytes
        assert file_sha256(tmp_path / file.file) == file.sha256
        assert f"-00003-{file.sha256[:8]}." in file.file
    assert entry.rows == entry.live_rows == 5 and entry.deleted is None
    assert entry.memory.bytes == HEADER_BYTES + 5 * 2 * 4 * 4 + 4
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("dtype", FORMATS)
def test_bytes_do_not_depend_on_batches(tmp_path, dtype):
    memory = make_memory(5)[:]
    assert write(tmp_path, memory, 1, 3, dtype=dtype) == write(tmp_path, memory, dtype=dtype)


def test_writes_rows_that_are_not_contiguous(tmp_path):
    memory = make_memory(5, shape=(4, 2))[:].transpose(1, 2)
    entry = write(tmp_path, memory)
    shard = open_shard(tmp_path / entry.memory.file, tmp_path / entry.texts.file, (5, 2, 4), "float32")
    assert torch.equal(shard.memory[0:5], memory)


def test_abort_leaves_nothing(tmp_path):
    writer = ShardWriter(tmp_path, 0, (2, 4), "float32")
    writer.write([make_memory(5)[:]], COLUMNS)
    writer.abort()
    assert list(tmp_path.iterdir()) == []
