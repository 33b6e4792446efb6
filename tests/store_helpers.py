"""Small corpus memories, damaged stores and child processes that are killed; shared by the tests of the store."""

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


def edit_manifest(folder, shard=None, **fields):
    """Overwrites fields of the manifest, or of one of its shards."""
    manifest = read_json(folder)
    (manifest if shard is None else manifest["shards"][shard]).update(fields)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def replace_shard_file(folder, kind, content):
    """Gives shard 0 another `kind` ("memory" or "texts") file and a manifest that agrees with its bytes."""
    name = read_json(folder)["shards"][0][f"{kind}_file"]
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_manifest(folder, 0, **{f"{kind}_bytes": len(content), f"{kind}_sha256": digest})


def start_child(code, *arguments):
    """A Python process that runs `code` with `sys.argv[1:]` and says "ready" when it has imported everything."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def wait_for(child, word):
    """Reads the child's lines until `word` comes; fails if it ends before."""
    for line in child.stdout:
        if line.strip() == word:
            return
    raise RuntimeError(f"the child ended with {child.wait()} before it said {word!r}")


def kill_after(child, seconds):
    """Lets the child go on for a while, then kills it with signal 9; returns whether it was still at work."""
    child.stdin.write("go\n")
    child.stdin.flush()
    time.sleep(seconds)
    alive = child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    return alive
