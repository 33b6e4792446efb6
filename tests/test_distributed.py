"""Training on two processes with sharded parameters equals training on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clara.train.checkpoints import trained_state
from conftest import make_model
from replicated_training import make
from safetensors.torch import load_file

FOLDER = Path(__file__).parent


def torchrun(script, *options):
    """Each process's line of JSON."""
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    launch += ["--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(FOLDER / script), *options], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]


@pytest.mark.slow
@pytest.mark.parametrize(("checkpointing", "split"), [("plain", "even")])
def test_sharded_over_two_processes_it_computes_what_one_computes(base, tmp_path, checkpointing, split):
    """`uneven`: the processes' rows differ in length so much that alone they would take other passes."""
    make_model(base, lora_dropout=0.0).save_pretrained(tmp_path, save_base=False)
    found = torchrun("sharded_training.py", str(tmp_path), checkpointing, split)
    assert [row["world"] for row in found] == [2, 2]
    assert all(row["halves"] for row in found), "a parameter is not sharded"
    for row in found:
        sharded, alone = row["losses"]
        assert sharded == pytest.approx(alone, rel=1e-5)
        assert row["largest"] > 1e-2 and row["gradients"] < 1e-5
        assert row["norms"][0] == pytest.approx(row["norms"][1], rel=1e-4)
        assert row["moved"] > 1e-3 and row["state"] < 1e-4
        assert row["controls"][0] == pytest.approx(row["controls"][1], rel=1e-3)
        assert row["restored"] == 0.0
