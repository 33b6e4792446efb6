"""Small ragged corpus memories made by hand, and damaged files; shared by the tests of memory and store."""

import torch
from clara.memory_clara import CorpusMemory

WIDTH = 8


def make_memory(count=5, first=0, dtype=torch.float32, fingerprint="f", width=WIDTH, **kwargs):
    """`count` passages called d{first}, d{first + 1}, …; passage i has 1 + i % 3 random vectors."""
    names = range(first, first + count)
    generator = torch.Generator().manual_seed(first)
    counts = torch.tensor([1 + name % 3 for name in names])
    fields = {
        "texts": [f"text {name}" for name in names],
        "document_ids": [f"d{name}" for name in names],
        "metadata": [{"number": name, "author": {"name": f"a{name % 2}"}} for name in names],
        "fingerprint": fingerprint,
        "base": {"name": "tiny", "revision": None},
    }
    values = torch.randn(int(counts.sum()), width, generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    return CorpusMemory(values.to(dtype), **{**fields, **kwargs}, offsets=offsets)


def same(first, second):
    """Whether two memories hold the same passages, in the same order."""
    rows = range(len(first))
    return (
        len(first) == len(second)
        and all(map(torch.equal, first.gather(rows), second.gather(rows)))
        and all(
            list(getattr(first, name)) == list(getattr(second, name))
            for name in ("texts", "document_ids", "metadata", "parents", "orders")
        )
        and (first.fingerprint, first.base, first.dtype) == (second.fingerprint, second.base, second.dtype)
    )


def flip(path, offset):
    """Flips one bit of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
