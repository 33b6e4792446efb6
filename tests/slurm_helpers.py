"""A Slurm for tests: an `sbatch` that runs the submitted scripts here, one task after another."""

import os
import stat
import sys
from pathlib import Path

SBATCH = """#!/bin/bash
script="${@: -1}"
array=$(sed -n 's/^#SBATCH --array=\\([0-9]*-[0-9]*\\).*/\\1/p' "$script")
export SLURM_NODELIST=localhost SLURM_CPUS_PER_TASK=1 SLURM_MEM_PER_CPU=2000 SLURM_GPUS_ON_NODE=0
for task in $(seq ${array%-*} ${array#*-}); do
    SLURM_ARRAY_TASK_ID=$task bash "$script" > "$script.out" 2>&1 || exit 1
done
echo "Submitted batch job 1"
"""


def slurm_path(folder):
    """Puts Slurm's commands into `folder`/tools: a PATH that finds them and this Python's commands first."""
    tools = folder / "tools"
    tools.mkdir()
    for name, text in (("sbatch", SBATCH), ("scontrol", "#!/bin/bash\necho localhost\n")):
        (tools / name).write_text(text)
        (tools / name).chmod(stat.S_IRWXU)
    return f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
