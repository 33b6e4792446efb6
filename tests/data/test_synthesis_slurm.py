"""The Slurm form of the pipeline, with an `sbatch` that runs the submitted scripts here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("datatrove")

from clara.data.synthesis.finish import read_outcomes
from slurm_helpers import slurm_path

SAMPLES = Path(__file__).parents[2] / "data" / "samples" / "corpus.jsonl"


@pytest.mark.slow
def test_slurm_runs_all_tasks_and_then_the_gates(tmp_path):
    environment = {**os.environ, "PATH": slurm_path(tmp_path)}
    clara = [
        sys.executable,
        "-c",
        "from clara.commands.main import main; raise SystemExit(main())",
        "synthesize",
    ]
    command = [
        *clara,
        str(SAMPLES),
        "--teacher",
        "scripted",
        "--output",
        str(tmp_path / "out"),
        "--limit",
        "6",
    ]
    options = '{"partition": "cpu", "time": "1:00:00", "with_srun": false, "env_command": "true"}'
    command += ["--executor", "slurm", "--tasks", "2", "--executor-options", options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    outcomes = list(read_outcomes(tmp_path / "out"))
    assert len({outcome.id for outcome in outcomes}) == len(outcomes) == 6
    assert {path.name[:5] for path in (tmp_path / "out" / "raw").iterdir()} == {"00000", "00001"}
    assert "6 of 6 passages" in (tmp_path / "out" / "report.md").read_text()
