"""A small handbook in files of nine kinds: is every file read, every passage found, every question answered?

Thirty files of an invented ferry company, frozen and never trained on, and sixty questions, fifteen of which
the files do not answer. Measured are the files that were read, the recall of the gold document among the
passages found, the answers from memories beside those of the base that reads the text of the same passages,
and how many answers are refused because their words stand in none of the passages.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clara.configuration_clara import READINGS
from clara.data.documents import find_files, read_documents
from clara.data.readers import read_rows
from clara.data.skipped import Skipped
from clara.data.sources import is_supported
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.prompts_clara import NOT_FOUND

from ..language_models import base_of
from ..metrics import cover_exact_match
from ..readers import TextReader, read_all
from ..statistics import bootstrap_interval
from ..tables import markdown_table, percent

NEEDS_MODEL = True
FOLDER = Path(__file__).resolve().parents[2] / "data" / "samples" / "handbook"
SEARCHES = {"vectors": None, "words and vectors": True, "words": 1.0}
DEPTHS = (1, 3, 5)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    add = parser.add_argument
    add("--folder", type=Path, default=FOLDER, help="with `files/` and questions.jsonl")
    add("--limit", type=int, help="questions of each kind (default: all)")
    add("--max-new-tokens", type=int, default=24, help="longest answer")
    add("--reading", choices=READINGS, help="of the memories (default: the checkpoint's)")
    add("--seed", type=int, default=0, help="of the intervals")


def measure(arguments: argparse.Namespace, model: ClaraForRetrievalGeneration) -> dict[str, Any]:
    """Files read, recall, answers and refusals, as JSON values."""
    skipped = Skipped(quiet=True)
    documents = list(read_documents(arguments.folder / "files", skipped=skipped))
    memory = model.build_memory(documents, show_progress=False)
    rows = [row for _, row in read_rows(arguments.folder / "questions.jsonl")]
    asked = [row for row in rows if row["answers"]][: arguments.limit]
    unanswerable = [row for row in rows if not row["answers"]][: arguments.limit]

    def interval(values: Sequence[float]) -> dict[str, float]:
        return bootstrap_interval([float(value) for value in values], seed=arguments.seed)

    scores, told = answer(model, memory, asked, unanswerable, arguments)
    return {
        "files": len(find_files(arguments.folder / "files")),
        "documents": len(documents),
        "left_out": [list(entry) for entry in skipped],
        "passages": len(memory),
        "questions": len(asked),
        "unanswerable": len(unanswerable),
        "reading": arguments.reading or model.config.reading,
        "seed": arguments.seed,
        "recall": {name: find(model, memory, asked, hybrid, interval) for name, hybrid in SEARCHES.items()},
        "answers": {name: interval(values) for name, values in scores.items() if values},
        "told": told,
    }


def answer(
    model: Any, memory: Any, asked: Sequence[Mapping], unanswerable: Sequence[Mapping], arguments: Any
) -> tuple[dict[str, list], list[dict[str, Any]]]:
    """Scores of the answers by words and vectors, a value a question, and what was said."""
    rows, limit = [*asked, *unanswerable], {"max_new_tokens": arguments.max_new_tokens}
    questions, gold = [row["question"] for row in rows], [row["answers"] for row in asked]
    options = {"hybrid": True, "reading": arguments.reading, "return_dict_in_generate": True}
    out = model.generate(questions, memory, max(DEPTHS), **options, **limit)
    refused = [
        text == NOT_FOUND or not is_supported(text, [memory.texts[index] for index in indices])
        for text, indices in zip(out.answers, out.indices, strict=True)
    ]
    count = len(asked)
    reader = TextReader(base_of(model), memory.texts)
    read = read_all(reader, questions[:count], out.indices[:count], name="answering from text", **limit)
    right = list(map(cover_exact_match, out.answers, gold))
    scores = {
        "right, from memories": right,
        "right, from the text of the same passages": list(map(cover_exact_match, read, gold)),
        "refused, of the unanswerable": refused[count:],
        "refused, of the right answers": [no for no, good in zip(refused, right, strict=False) if good],
        "refused, of the wrong answers": [no for no, good in zip(refused, right, strict=False) if not good],
    }
    told = [
        {"question": question, "gold": row["answers"], "answer": text, "refused": no}
        for question, row, text, no in zip(questions, rows, out.answers, refused, strict=True)
    ]
    return scores, told


def find(model: Any, memory: Any, rows: Sequence[Mapping], hybrid: Any, interval: Any) -> dict[str, Any]:
    """Recall of the gold document at each depth."""
    hits = model.retrieve([row["question"] for row in rows], memory, max(DEPTHS), hybrid=hybrid)
    parents = [[memory.parents[index] for index in indices] for indices in hits.indices]
    return {
        f"recall@{k}": interval(
            [row["document"] in found[:k] for row, found in zip(rows, parents, strict=True)]
        )
        for k in DEPTHS
    }


def render(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    left_out = "; ".join(f"{name} {reason}" for name, reason in result["left_out"]) or "none"
    note = (
        f"{result['files']} files gave {result['documents']} documents and {result['passages']} passages; "
        f"left out: {left_out}. {result['questions']} questions have an answer in them, "
        f"{result['unanswerable']} have none. Percent with 95 % bootstrap intervals, seed {result['seed']}. "
        "An answer is right if it holds a gold answer, and refused if too few of its words stand in the "
        f"passages. Reading: {result['reading']} (`--reading`)."
    )
    recall = [
        [name, *(percent(values[f"recall@{k}"]) for k in DEPTHS)] for name, values in result["recall"].items()
    ]
    answers = [[name, percent(value)] for name, value in result["answers"].items()]
    tables = [
        markdown_table(["search by", *(f"recall@{k}" for k in DEPTHS)], recall),
        markdown_table(["answers", "percent"], answers),
    ]
    return f"# The handbook\n\n{note}\n\n{tables[0]}\n\n{tables[1]}\n"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Recall by depth, a line for each search."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in result["recall"].items():
        axes.plot(DEPTHS, [100 * values[f"recall@{k}"]["mean"] for k in DEPTHS], marker="o", label=name)
    axes.set(xlabel="passages read", ylabel="gold document found (%)", ylim=(0, 102), xticks=DEPTHS)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
