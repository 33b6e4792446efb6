"""Runs the tests against each one-line change of mutants.py (`make mutations`).

A change is noticed if a test of the files that cover its place fails. Libraries are imported once; every
change is tried in a fork of the process, which reads the changed line in place of the file's: no file is
touched.
"""

import argparse
import importlib
import json
import os
import sys
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "torch", "pyarrow.parquet", "transformers.trainer", "transformers.generation", "datasets", "matplotlib",
    "transformers.processing_utils", "transformers.dynamic_module_utils", "peft", "trl.trainer.base_trainer",
    "transformers.models.llama.modeling_llama", "transformers.models.auto", "trl", "trl.scripts.utils",
    "accelerate", "pytest", "safetensors.torch", "tokenizers", "huggingface_hub", "tqdm.auto",
)  # fmt: skip
# Tests by the file that holds a change, those nearest to it first.
COVER = {
    "retrieval_clara.py": ["model/test_retrieval_clara", "model/test_ragged_memories"],
    "adapters_clara.py": [
        "model/test_adapters_fingerprint",
        "model/test_adapters_merging",
        "model/test_adapters_clara",
        "model/test_checkpoint_loading",
    ],
    "modeling_clara.py": [
        "model/test_modeling_maths",
        "model/test_ragged_memories",
        "train/test_training_equivalences",
        "model/test_modeling_clara",
    ],
    "processing_clara.py": [
        "model/test_processing_documents",
        "model/test_processing_clara",
        "model/test_ragged_memories",
    ],
    "prompts_clara.py": [
        "model/test_prompts_tokens",
        "model/test_prompts_splitting",
        "model/test_prompts_clara",
        "model/test_processing_clara",
    ],
    "memory_clara.py": ["model/test_memory_clara", "model/test_memory_packing"],
    "checkpoint_clara.py": ["model/test_checkpoint_loading", "model/test_checkpoint_clara"],
    "data/collation.py": ["data/test_collation", "model/test_ragged_memories"],
    "evaluation/ranking.py": ["evaluation/test_ranking"],
    "evaluation/statistics.py": ["evaluation/test_statistics"],
    "evaluation/systems.py": ["evaluation/test_systems"],
    "serving/engine.py": ["serving/test_serving_engine"],
    "train/checkpoints.py": ["train/test_checkpoints"],
    "train/run.py": ["train/test_run", "train/test_resuming"],
    "train/text_baseline.py": ["train/test_text_baseline"],
    "train/losses.py": ["train/test_losses"],
    "train/groups.py": ["train/test_groups", "train/test_trainer"],
    "train/memories.py": [
        "train/test_memories",
        "train/test_checks",
        "model/test_ragged_memories",
        "train/test_resuming",
    ],
    "train/collators.py": ["train/test_collators", "train/test_trainer"],
    "train/trainer.py": ["train/test_trainer"],
    "train/past.py": ["train/test_past"],
    "train/checks.py": ["train/test_checks"],
    "store/store.py": ["store/test_store"],
    "store/schema.py": ["store/test_schema", "store/test_store"],
    "store/search.py": ["store/test_search"],
    "store/commits.py": ["store/test_store"],
    "store/ranking.py": ["model/test_memory_clara", "model/test_search_maths"],
}
SECONDS = 1800  # for the tests of one change


def find(place: str, old: str) -> Path:
    """The file in which a change's old text occurs, exactly once.

    Raises:
        ValueError: If it occurs nowhere or several times.
    """
    files = sorted(ROOT.glob("*_clara.py")) if place == "root" else [ROOT / place]
    counts = {file: file.read_text(encoding="utf-8").count(old) for file in files}
    if sum(counts.values()) != 1:
        raise ValueError(f"`old` must occur once in {place}, got {sum(counts.values())} times: {old!r}.")
    return next(file for file, count in counts.items() if count)


def read_changed(path: Path, old: str, new: str) -> None:
    """From now on this process imports a file with its text changed; compiled copies are passed over."""
    sys.dont_write_bytecode = True
    get_data, path_stats = SourceFileLoader.get_data, SourceFileLoader.path_stats

    def changed(loader: SourceFileLoader, name: str) -> bytes:
        data = get_data(loader, name)
        return data.replace(old.encode(), new.encode()) if Path(name).resolve() == path else data

    def stats(loader: SourceFileLoader, name: str) -> dict:
        if Path(name).resolve() == path:
            raise OSError("compiled copies of a changed file are not used")
        return path_stats(loader, name)

    SourceFileLoader.get_data, SourceFileLoader.path_stats = changed, stats


def attempt(files: list[str], change: tuple[Path, str, str] | None, log: Path) -> str:
    """Runs test files in a fork; "" if they pass, else the first test that fails, or what became of them."""
    child = os.fork()
    if child == 0:
        import pytest

        number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(number, 1)
        os.dup2(number, 2)
        if change is not None:
            read_changed(*change)
        names = [f"tests/{name}.py" for name in files]
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", *names])
        sys.stdout.flush()
        os._exit(int(code))
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return told(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))
        time.sleep(0.2)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return f"no end after {SECONDS} s"


def told(code: int, output: str) -> str:
    """The first failure that pytest reports; "" if there is none.

    Raises:
        RuntimeError: If pytest did not run the tests.
    """
    if code == 0:
        return ""
    if code not in (1, 2):
        raise RuntimeError(f"pytest ended with exit code {code}:\n{output}")
    lines = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return lines[0].split(" - ")[0].split(" ", 1)[1] if lines else f"exit code {code}"


def page(found: list[dict]) -> str:
    """The results as a table."""
    noticed = sum(bool(one["noticed_by"]) for one in found)
    rows = [
        f"| `{one['file']}` | `{one['old']}` | `{one['new']}` | {one['noticed_by'] or '**none**'} |".replace(
            "\n", "⏎"
        )
        for one in found
    ]
    return "\n".join(
        [
            "# One-line changes of the core and the tests that notice them",
            "",
            f"{noticed} of {len(found)} changes ({noticed / len(found):.0%}) make a test fail "
            "(`make mutations`; the changes are in `tests/mutants.py`).",
            "",
            "| file | line | changed to | noticed by |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> int:
    """Tries the changes and writes `mutations.md` and `mutations.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "results")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of changes; the rest stay as found")
    parser.add_argument("--unchecked", action="store_true", help="do not run the tests unchanged first")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    os.chdir(ROOT)
    for name in HEAVY:
        importlib.import_module(name)
    from mutants import MUTANTS

    options.output.mkdir(parents=True, exist_ok=True)
    log, results = options.output / "mutations.log", options.output / "mutations.json"
    before = json.loads(results.read_text()) if options.only and results.exists() else []
    found = {one["number"]: one for one in before}
    chosen = {number: MUTANTS[number] for number in options.only or range(len(MUTANTS))}
    places = {number: find(mutant.place, mutant.old) for number, mutant in chosen.items()}
    names = {number: str(path.relative_to(ROOT)) for number, path in places.items()}
    files = dict.fromkeys(file for name in names.values() for file in COVER[name])
    failing = "" if options.unchecked else attempt(list(files), None, log)
    if failing:
        raise RuntimeError(f"{failing} fails without any change: mend it first.")
    for number, mutant in chosen.items():
        path, name = places[number], names[number]
        by = attempt(COVER[name], (path, mutant.old, mutant.new), log)
        found[number] = {"number": number, "file": name, **mutant._asdict(), "noticed_by": by}
        print(number, name, by or "NOT NOTICED", flush=True)
        rows = [found[key] for key in sorted(found)]
        results.write_text(json.dumps(rows, indent=1) + "\n")
        (options.output / "mutations.md").write_text(page(rows))
    log.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
