"""Training on two processes, with sharded parameters or a copy on each, equals training on one."""

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

FOLDER = Path(__file__).parents[1]


def torchrun(script, *options):
    """Each process's line of JSON."""
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command = [*launch, "--nproc-per-node", "2", str(FOLDER / script), *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpointing", "split"), [("plain", "even"), ("checkpointing", "even"), ("plain", "uneven")]
)
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


@pytest.mark.slow
def test_a_copy_on_each_of_two_processes_learns_what_one_learns(base, tmp_path):
    """2 x 4 rows a step against 1 x 8, cut off in the second epoch and resumed on two processes."""
    make_model(base, lora_dropout=0.0).save_pretrained(tmp_path / "start", save_base=False)
    (found,) = torchrun("replicated_training.py", str(tmp_path / "start"), str(tmp_path / "two"))
    assert found["world"] == 2
    one = make(str(tmp_path / "start"), tmp_path / "one", 8, ddp_backend=None)
    one.train()
    expected = trained_state(one.model)
    state = load_file(tmp_path / "two" / "state.safetensors")
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=1e-3)
    logs = [[row for row in log if "loss" in row] for log in (found["log"], one.state.log_history)]
    for two, alone in zip(*logs, strict=True):
        for name in ("loss", "alignment_loss", "grad_norm", "grad_norm/compressor", "grad_norm/generator"):
            assert two[name] == pytest.approx(alone[name], rel=1e-3), name
    evaluated = one.evaluate()
    for name in ("eval_loss/own", "eval_loss/shuffled", "eval_loss/none", "eval_alignment_loss"):
        assert found["evaluated"][name] == pytest.approx(evaluated[name], rel=1e-3), name
