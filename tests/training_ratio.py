"""Training steps of this checkout against those of another, in turns: `python tests/training_ratio.py OTHER`.

Each checkout trains in a process of its own, on the same rows from the same base; one waits while the other
trains, so that both meet the machine in the same state. The page goes to results/training-ratio.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("pretraining", "instruction_tuning", "end_to_end")
WORKER = """
import sys, time, json, logging
import torch
torch.set_num_threads(1)
from clara.data.records import PretrainingRecord, QuestionRecord
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.train.arguments import ClaraTrainingConfig
from clara.train.curves import CurveCallback
from clara.train.trainer import ClaraTrainer
base, folder, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
many = range(32)
texts = [f"The mill of Port {n} stands there. " * 3 + f"It was built in {1600 + n} by {n} men." for n in many]
asked = [(f"When was the mill of Port {n} built?", (str(1600 + n),)) for n in many]
ROWS = {"pretraining": [PretrainingRecord(t, (q,), (a,), (t[::-1],)) for t, (q, a) in zip(texts, asked)]}
ROWS["instruction_tuning"] = ROWS["end_to_end"] = [
    QuestionRecord(q, a, tuple(texts[(n + k) % 32] for k in range(6)), (0,)) for n, (q, a) in enumerate(asked)
]
fields = {"pooling": "memory_tokens", "lora_dropout": 0.0, "retrieval_top_k": 3}
model = ClaraForRetrievalGeneration.from_base(base, **fields)
print("ready", flush=True)
for line in sys.stdin:
    stage = line.strip()
    args = ClaraTrainingConfig(
        output_dir=f"{folder}/{time.time_ns()}", stage=stage, max_steps=steps, per_device_train_batch_size=2,
        documents_per_question=3, use_cpu=True, disable_tqdm=True, save_strategy="no", logging_steps=1000,
        controls=False, samples=0, report_to=[], learning_rate=1e-4,
    )
    trainer = ClaraTrainer(model, args, train_dataset=ROWS[stage])
    trainer.remove_callback(CurveCallback)
    start = time.process_time()
    trainer.train()
    print("seconds", time.process_time() - start, flush=True)
"""


def start(checkout: Path, base: str, folder: str, steps: int) -> subprocess.Popen:
    """A process that trains with a checkout, the parent of whose folder `clara` is imported from."""
    code = {"PYTHONPATH": str(checkout.parent), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", WORKER, base, folder, str(steps)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env={**os.environ, **code}, stdin=pipe, stdout=pipe, text=True, cwd="/")


def answer(worker: subprocess.Popen, word: str) -> str:
    """What a worker says after a word."""
    for line in worker.stdout:
        if line.startswith(word):
            return line.removeprefix(word).strip()
    raise RuntimeError(f"a worker ended before it said {word!r}: run it alone to see why.")


def page(found: dict) -> str:
    """The ratios as a table."""
    rows = [
        f"| {stage} | {row['ratio']:.2f} | {row['low']:.2f} to {row['high']:.2f} | {len(row['here'])} |"
        for stage, row in found["stages"].items()
    ]
    return "\n".join(
        [
            "# Training throughput against an earlier state",
            "",
            f"Steps a CPU second here over those of {found['other']}, in turns in one run "
            f"(`tests/training_ratio.py`): {found['base']} in float32, one thread, two rows a step, "
            f"{found['steps']} steps a turn. CPU seconds of the process, {found['machine']}.",
            "",
            "| stage | median ratio | lowest to highest turn | turns |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> int:
    """Measures and writes `training-ratio.md` and `.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="another checkout, in a folder called clara")
    parser.add_argument("--name", default="the other checkout")
    parser.add_argument("--base", required=True, help="folder of a causal LM")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--machine", default="on an idle machine")
    parser.add_argument("--output", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    found = {"other": options.name, "base": Path(options.base).name, "steps": options.steps}
    found |= {"machine": options.machine, "stages": {}}
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            start(path.resolve(), options.base, folder, options.steps) for path in (ROOT, options.other)
        ]
        for worker in workers:
            answer(worker, "ready")
        for stage in STAGES:
            seconds: list[list[float]] = [[], []]
            for turn in range(options.turns + 1):
                for number in (0, 1) if turn % 2 else (1, 0):
                    workers[number].stdin.write(stage + "\n")
                    workers[number].stdin.flush()
                    seconds[number].append(float(answer(workers[number], "seconds")))
            here, there = (values[1:] for values in seconds)  # the first turn warms up
            ratios = [b / a for a, b in zip(here, there, strict=True)]
            row = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
            found["stages"][stage] = {**row, "here": here, "there": there}
            print(stage, row, flush=True)
        for worker in workers:
            worker.stdin.close()
            worker.wait()
    (options.output / "training-ratio.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.output / "training-ratio.md").write_text(page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
