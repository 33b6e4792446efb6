"""A cold start: from `clara ask` at the prompt of a shell to its first answer, and what of it is imports."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from clara.data.sample_corpus import sample_questions

from .report import Section, ratio, section, variant
from .timing import measure
from .workload import Sizes, sample_memory

ASKED = "one question, in a fresh process"
LIBRARIES = "a fresh process that only imports torch, transformers and peft"
KEPT = "the same question, from a model that is loaded already"
IMPORTS = "import torch, peft; from transformers import PreTrainedModel, GenerationMixin"


def bench_start(model: Any, named: list[str], sizes: Sizes, repeats: int, folder: Path) -> Section:
    """Times `clara ask` on a stored memory from a shell, beside its imports and beside the answer alone.

    The files lie in the system's cache after the warm-up round, as they do when a command is given twice.

    Args:
        model: The model that makes the memory, and gives the answer of a loaded one.
        named: The words that name it to `clara ask`, such as `["--model", "FOLDER"]`.
        sizes: How many documents the memory holds.
        repeats: Rounds that count.
        folder: Where the memory is kept.
    """
    memory = sample_memory(model, sizes.store, sizes)
    memory.save_pretrained(str(folder / "memory"))
    question = sample_questions()[0]["question"]
    ask = [sys.executable, "-m", "clara", "ask", str(folder / "memory"), question, *named]
    runs = {
        ASKED: lambda _: subprocess.run(ask, check=True, capture_output=True),
        LIBRARIES: lambda _: subprocess.run([sys.executable, "-c", IMPORTS], check=True),
        KEPT: lambda _: model.generate(question, memory),
    }
    seconds = measure(runs, repeats, model.device)
    ratios = [ratio(f"{ASKED}, against {name}", seconds[ASKED], seconds[name]) for name in (LIBRARIES, KEPT)]
    title = f"First answer over {len(memory)} stored documents"
    return section("start", title, [variant(name, values) for name, values in seconds.items()], ratios)
