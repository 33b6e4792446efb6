"""How the help of `clara` looks: commands in groups, examples, defaults, exit codes."""

import argparse
import json
import re
import shutil
from collections.abc import Iterable
from itertools import groupby
from textwrap import fill, indent

GROUPS = {
    "documents and answers": ("demo", "build-memory", "ask", "chat", "memory", "serve", "app"),
    "models": ("train", "synthesize", "convert", "export", "publish"),
    "measurements": ("evaluate", "experiment", "bench", "bench-serve"),
}
EXIT_CODES = """exit codes:
  0    done
  1    a fault of clara itself; the traceback is shown
  2    what was asked for cannot be done: one line on stderr says what, why and the way out
  130  interrupted"""
EXIT_LINE = "exit codes: 0 done, 1 a fault of clara, 2 it cannot be done (one line says why), 130 interrupted"
WIDEST = 100
METAVARS = {int: "N", json.loads: "JSON"}
EXAMPLES = {
    "demo": ("clara demo", "clara demo --questions 20 --device cpu --json demo.json"),
    "build-memory": (
        "clara build-memory notes/ papers.jsonl --output my_memory",
        "clara build-memory notes/ --output my_memory --dry-run",
        "clara build-memory corpus.parquet --output my_memory --dtype int8 --workers 8 --strict",
    ),
    "ask": (
        'clara ask my_memory "Who found Titan?"',
        'clara ask my_memory "Who found Titan?" --where \'{"year": {">=": 1600}}\' --hybrid --json',
    ),
    "chat": ("clara chat my_memory", "clara chat my_memory --retrieval-top-k 2 --json"),
    "memory": (
        "clara memory list my_memory",
        "clara memory update my_memory notes/changed.md",
        "clara memory export my_memory --output passages.jsonl",
    ),
    "serve": (
        "clara serve --memory my_memory",
        "clara serve --memory notes=my_memory --memory papers --port 9000 --max-batch 32",
    ),
    "app": ("clara app", "clara app --model my_model --port 9000"),
    "train": (
        "clara train pretraining --config train/recipes/smollm2-135m-cpu-pretraining.yaml",
        "clara train pretraining --config train/recipes/tiny.yaml --max_steps 4",
        "clara train end_to_end --model outputs/tiny/final --train_files rows.jsonl --output_dir out",
    ),
    "synthesize": ("clara synthesize documents/ --teacher http://localhost:8000/v1 --output my_rows",),
    "convert": (
        "clara convert official org/clara-7b --output converted --base org/base-7b",
        "clara convert to-text-generation my_model --output plain",
        "clara convert from-text-generation my_lora --output my_model",
    ),
    "export": ("clara export vllm my_model --output exported",),
    "publish": ("clara publish my_model --repo org/name --dry-run --output folder",),
    "evaluate": ("clara evaluate --benchmark nq --file nq.jsonl --limit 500 --systems all --output report",),
    "experiment": ("clara experiment handbook --output results",),
    "bench": ("clara bench latency --repeats 5", "clara bench all --output results/speed"),
    "bench-serve": ("clara bench-serve --clients 32 --output results/serve",),
}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Paragraphs filled, examples as they are; kind and default of every option that has one to show."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts: list[str] = []
        for set_in, lines in groupby(text.splitlines(), key=lambda line: line[:1] in ("", " ")):
            for line in lines if set_in else [" ".join(lines)]:
                if line.startswith("  clara "):  # an example, to be copied
                    parts.append(line)
                    continue
                start = re.match(r" +(\S+ {2,})?|", line).end()
                parts.append(fill(line, width, subsequent_indent=" " * start, break_on_hyphens=False))
        return "\n".join(parts)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return METAVARS.get(action.type) or super()._get_default_metavar_for_optional(action)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        shown = action.default not in (None, False, True, [], "", argparse.SUPPRESS)
        if not action.option_strings or not shown or "default:" in text:
            return text
        return f"{text} (default: %(default)s)".strip()


def overview(summaries: dict[str, str]) -> str:
    """All commands in their groups, each with its summary."""
    width = max(map(len, summaries)) + 2
    parts = []
    for title, names in GROUPS.items():
        lines = [f"  {name:<{width}}{summaries[name]}" for name in names]
        parts.append("\n".join([f"{title}:", *lines]))
    return "\n\n".join(parts)


def examples(lines: Iterable[str]) -> str:
    """Examples as they stand at the end of a help."""
    return "examples:\n" + indent("\n".join(lines), "  ")
