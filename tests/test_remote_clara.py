"""A store read through fsspec gives the same as from its folder, and only the bytes asked for are fetched."""

import uuid

import fsspec
import pytest
import torch
from clara.memory_clara import CorpusMemory
from clara.remote_clara import RemoteRows, open_remote
from store_helpers import edit_manifest, make_memory, same


def upload(folder):
    """Copies a store's files into the memory file system; returns the address."""
    name = f"/store-{uuid.uuid4().hex}"
    system = fsspec.filesystem("memory")
    for path in folder.iterdir():
        system.pipe_file(f"{name}/{path.name}", path.read_bytes())
    return f"memory://{name}"


@pytest.fixture
def folder(tmp_path):
    memory = make_memory(30, shape=(3, 8))
    memory.save_pretrained(tmp_path, max_shard_size=1000)
    return tmp_path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_the_same_as_from_the_folder(tmp_path, dtype):
    plain = make_memory(30, shape=(3, 8))
    memory = CorpusMemory(plain[:], plain.texts, plain.document_ids, plain.metadata, dtype=dtype)
    memory.save_pretrained(tmp_path, max_shard_size=1000)
    memory.delete(["d3", "d29"])
    memory.save_pretrained(tmp_path)
    remote, local = open_remote(upload(tmp_path)), CorpusMemory.from_pretrained(tmp_path)
    assert same(remote, local) and len(remote) == 28 and remote.stored_dtype == dtype
    assert same(open_remote(str(tmp_path)), local)
    indices = torch.tensor([[20, 0, 7], [7, 7, 27]])
    assert torch.equal(remote.gather(indices), local.gather(indices))
    query = torch.randn(2, 3, 8)
    assert torch.equal(remote.search(query, 5)[1], local.search(query, 5)[1])
    assert remote.index is None


def test_only_the_rows_asked_for_are_read(folder, monkeypatch):
    remote, fetched = open_remote(upload(folder)), []
    system = fsspec.filesystem("memory")
    plain = type(system).cat_ranges
    monkeypatch.setattr(
        type(system),
        "cat_ranges",
        lambda self, paths, starts, ends, **k: (
            fetched.extend(b - a for a, b in zip(starts, ends, strict=True)),
            plain(self, paths, starts, ends, **k),
        )[1],
    )
    remote.gather(torch.tensor([2, 25]))
    assert fetched == [96, 96]


def test_other_makers_and_damage(folder):
    with pytest.raises(ValueError, match="made by another compressor or base"):
        open_remote(str(folder), "g")
    with pytest.raises(FileNotFoundError):
        open_remote("memory:///nothing-here")
    path = next(folder.glob("memory-00001*"))
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="was cut short or replaced"):
        open_remote(str(folder))
    path.write_bytes(b"\xff" * len(content))
    with pytest.raises(ValueError, match="is not a safetensors file"):
        open_remote(str(folder))
    path.write_bytes(content[:8] + content[8:].replace(b'"F32"', b'"F16"', 1))
    with pytest.raises(ValueError, match="does not hold"):
        open_remote(str(folder))
    path.write_bytes(content)
    edit_manifest(folder, num_passages=7)
    with pytest.raises(ValueError, match="num_passages"):
        open_remote(str(folder))


def test_a_slice_beyond_the_end_is_empty(folder):
    rows = open_remote(str(folder))._shards[0].memory
    assert isinstance(len(rows), int) and type(rows) is RemoteRows
    assert rows[4:4].shape == (0, 3, 8) and len(rows[5:100]) == len(rows) - 5
