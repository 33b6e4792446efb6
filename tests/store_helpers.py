"""Small corpus memories, damaged stores and processes that are killed; shared by the tests of the store."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import torch
from clara.manifest_clara import MANIFEST
from clara.memory_clara import CorpusMemory
from clara.passages_clara import PassageWriter, check_passages

PLACES = ("ram", "disk", "both")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def make_memory(count=5, first=0, dtype=torch.float32, fingerprint="f", shape=(2, 4), seed=0, **kwargs):
    """`count` passages called d{first}, d{first + 1}, … with random memories."""
    generator = torch.Generator().manual_seed(seed + first)
    values = torch.randn(count, *shape, generator=generator).to(dtype)
    names = range(first, first + count)
    return CorpusMemory(
        values,
        [f"text {name}" for name in names],
        document_ids=[f"d{name}" for name in names],
        metadata=[{"number": name} for name in names],
        fingerprint=fingerprint,
        base={"name": "tiny", "revision": None},
        **kwargs,
    )


def seven_passages(place, folder):
    """Seven passages: in "ram", in three shards on "disk", or on "both", five on disk and two in RAM."""
    memory = make_memory(7 if place != "both" else 5)
    if place != "ram":
        memory.save_pretrained(folder, max_shard_size=3 * 32)
        memory = CorpusMemory.from_pretrained(folder)
    if place == "both":
        memory.append(make_memory(2, first=5))
    return memory


def columns_of(count, first=0):
    """The columns of `count` passages called by their numbers."""
    names = [str(first + row) for row in range(count)]
    return check_passages(count, names, names, [{"n": name} for name in names])


def write_columns(path, *parts):
    """Writes a table of passages, part after part."""
    writer = PassageWriter(path)
    for part in parts:
        writer.write(part)
    writer.close()


def same(first, second):
    """Whether two corpus memories hold the same."""
    return (
        torch.equal(first[:], second[:])
        and first.dtype == second.dtype
        and first.texts == second.texts
        and first.document_ids == second.document_ids
        and first.metadata == second.metadata
        and first.parents == second.parents
        and first.orders == second.orders
        and first.fingerprint == second.fingerprint
        and first.base == second.base
    )


def read_json(folder):
    return json.loads((folder / MANIFEST).read_text())


def edit_manifest(folder, shard=None, kind=None, **fields):
    """Overwrites fields of the manifest, of one of its shards, or of one `kind` of file of that shard."""
    manifest = read_json(folder)
    entry = manifest if shard is None else manifest["shards"][shard]
    (entry if kind is None else entry[kind]).update(fields)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def replace_shard_file(folder, kind, content):
    """Gives shard 0 another file of `kind` "memory", "texts" or "deleted", and a manifest to match."""
    name = read_json(folder)["shards"][0][kind]["file"]
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_manifest(folder, 0, kind, bytes=len(content), sha256=digest)


def flip(path, offset):
    """Flips one bit of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def start_child(code, *arguments):
    """A Python process that runs `code` with `sys.argv[1:]`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


NURSERY = """
import os, sys, torch
from clara.memory_clara import CorpusMemory, CorpusMemoryWriter
{code}
for folder in sys.stdin:
    pid = os.fork()
    if pid == 0:
        work(folder.strip())
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Nursery:
    """A process that has imported everything and forks one for each trial; `code` defines `work(folder)`."""

    def __init__(self, code):
        self._child = start_child(NURSERY.format(code=code))

    def kill_after(self, folder, seconds, sign=None):
        """Starts `work(folder)`, kills it with signal 9 a while after it makes the file `sign`.

        Returns whether it was still at work then.
        """
        self._child.stdin.write(f"{folder}\n")
        self._child.stdin.flush()
        pid = int(self._child.stdout.readline())
        while sign is not None and not sign.exists():
            time.sleep(0.001)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):  # it was done before
            os.kill(pid, signal.SIGKILL)
        status = int(self._child.stdout.readline())
        if status not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the worker failed with exit status {status}")
        return status != 0

    def close(self):
        self._child.stdin.close()
        self._child.wait()
        self._child.stdout.close()
