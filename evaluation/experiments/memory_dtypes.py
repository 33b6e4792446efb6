"""What keeping memories in fewer bytes costs: answers from bf16, int8 and int4 memories.

Every candidate is compressed once, and its memory packed in each format. Search is by the float32 vectors,
which no format changes: all formats read the same passages. The questions are the same too, so each format is
compared with bf16 by a paired bootstrap, over all files together and over each.

Memories and answers are kept in `--runs`: a run that was cut off goes on there.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clara.memory_clara import CorpusMemory
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.processing_clara import Passages

from ..benchmarks import Benchmark, build_benchmark
from ..language_models import ClaraModel, MemoryModel, memory_folder
from ..readers import MemoryReader, memory_bytes
from ..reports import Scores, score_predictions
from ..retrievers import MemoryRetriever
from ..runner import run_fingerprint, run_system
from ..sample_rows import question_rows
from ..summaries import COLUMNS, differences_table, error_bars, means_table, summarize
from ..systems import Prediction, System
from ..tables import markdown_table

NEEDS_MODEL = True
REFERENCE = "bfloat16"
FORMATS = (REFERENCE, "int8", "int4")
F1 = "token_f1"
METRICS = (F1, "cover_exact_match")
MARGIN = 0.003
ALL = "all files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    parser.add_argument("--files", nargs="+", help="question rows (default: the sample corpus)")
    parser.add_argument("--limit", type=int, default=500, metavar="N", help="questions a file (default: 500)")
    parser.add_argument("--pool-size", type=int, default=20, metavar="N", help="candidates (default: 20)")
    parser.add_argument("--retrieval-top-k", type=int, default=5, metavar="K", help="read (default: 5)")
    parser.add_argument("--max-new-tokens", type=int, default=32, metavar="N", help="longest answer")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="questions at once")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals and tests")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("outputs/memory-dtypes"),
        metavar="FOLDER",
        help="memories and answers",
    )


def measure(arguments: argparse.Namespace, model: ClaraForRetrievalGeneration) -> dict[str, Any]:
    """Answers by format, over all files and over each, as JSON values.

    Raises:
        ValueError: If two files have one name, or a row is bad.
    """
    benchmark, files = read_files(arguments)
    folder = memory_folder(arguments.runs, model, benchmark.documents)
    return compare_formats(arguments, ClaraModel(model), benchmark, files, folder)


def read_files(arguments: argparse.Namespace) -> tuple[Benchmark, dict[str, list[int]]]:
    """One benchmark of all files' questions, and the numbers of each file's questions in it."""
    rows, names = [], []
    for file in arguments.files or [None]:
        records, name = question_rows(None if file is None else [file], arguments.limit, arguments.pool_size)
        if name in names:
            raise ValueError(f"`--files` name {name} twice: its questions could not be told apart.")
        names.append(name)
        rows += [(f"{name}:{number}", record) for number, record in enumerate(records)]
    benchmark = build_benchmark("memory-dtypes", "normal", rows, arguments.pool_size)
    files: dict[str, list[int]] = {name: [] for name in names}
    for number, example in enumerate(benchmark.examples):
        files[example.id.rpartition(":")[0]].append(number)
    return benchmark, files


def compare_formats(
    arguments: argparse.Namespace,
    model: MemoryModel,
    benchmark: Benchmark,
    files: Mapping[str, Sequence[int]],
    folder: Path,
) -> dict[str, Any]:
    """Answers the questions from every format and compares the formats.

    Args:
        arguments: Of the experiment.
        model: Compresses once, reasons and answers.
        benchmark: The questions.
        files: For each file its questions, as numbers of examples.
        folder: Where the memories go.
    """
    passages = model.split(benchmark.documents)
    memory = model.compress(passages, folder)
    memories = {name: packed_as(memory, name) for name in FORMATS}
    predictions = {
        name: answers_from(arguments, model, benchmark, passages, packed) for name, packed in memories.items()
    }
    groups = {ALL: range(len(benchmark.examples)), **(files if len(files) > 1 else {})}
    each = len(passages.texts) / len(benchmark.documents)
    return {
        "source": ", ".join(files),
        "seed": arguments.seed,
        "retrieval_top_k": arguments.retrieval_top_k,
        "compressed_in": memory.dtype,
        "documents": len(benchmark.documents),
        "passages": len(passages.texts),
        "bytes": {name: each * memory_bytes(packed) for name, packed in memories.items()},
        "same": {name: same_answers(predictions[name], predictions[REFERENCE]) for name in FORMATS[1:]},
        "files": {
            name: {"questions": len(rows), **_summary(arguments, benchmark, predictions, rows)}
            for name, rows in groups.items()
        },
    }


def packed_as(memory: CorpusMemory, dtype: str) -> CorpusMemory:
    """The memories in another format; search vectors stay."""
    columns = (memory.texts, memory.document_ids, memory.metadata, memory.parents, memory.orders)
    identity = {"fingerprint": memory.fingerprint, "base": memory.base}
    return CorpusMemory(
        memory.values, *columns, vectors=memory.vectors, dtype=dtype, **identity, offsets=memory.offsets
    )


def answers_from(
    arguments: argparse.Namespace,
    model: MemoryModel,
    benchmark: Benchmark,
    passages: Passages,
    memory: CorpusMemory,
) -> list[Prediction]:
    """What is found in the pools by these memories, and answered from them; kept in a file of `--runs`."""
    settings = {
        "format": memory.dtype,
        "questions": benchmark.fingerprint(),
        "model": model.fingerprint(),
        "retrieval_top_k": arguments.retrieval_top_k,
        "max_new_tokens": arguments.max_new_tokens,
    }
    system = System(
        MemoryRetriever(model, memory),
        MemoryReader(model, memory),
        passages,
        "pool",
        arguments.retrieval_top_k,
        arguments.max_new_tokens,
    )
    path = arguments.runs / f"{memory.dtype}-{run_fingerprint(settings)[:12]}.jsonl"
    return run_system(system, benchmark.examples, path, settings, arguments.batch_size)


def same_answers(predictions: Sequence[Prediction], others: Sequence[Prediction]) -> float:
    """Share of the questions that have the same answer."""
    pairs = list(zip(predictions, others, strict=True))
    return sum(one.answer == other.answer for one, other in pairs) / len(pairs)


def _summary(
    arguments: argparse.Namespace,
    benchmark: Benchmark,
    predictions: Mapping[str, Sequence[Prediction]],
    rows: Sequence[int],
) -> dict[str, Any]:
    """Means and paired differences over some of the questions."""
    examples = [benchmark.examples[row] for row in rows]
    conditions: dict[str, Scores] = {}
    for name, found in predictions.items():
        scores = score_predictions(examples, [found[row] for row in rows], [arguments.retrieval_top_k])
        conditions[name] = {metric: scores[metric] for metric in METRICS}
    return summarize(conditions, REFERENCE, arguments.seed)


def render(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    reference = result["bytes"][REFERENCE]
    sizes = [
        [name, f"{size:,.0f}", f"{size / reference:.3f}"]
        + [f"{100 * result['same'][name]:.1f}" if name in result["same"] else ""]
        for name, size in result["bytes"].items()
    ]
    header = ["format", "bytes a document", f"of {REFERENCE}", "same answer, %"]
    parts = [
        "# Memories in fewer bytes",
        f"{result['documents']} documents ({result['passages']} passages) of {result['source']}, compressed "
        f"once in {result['compressed_in']}, kept in each format, searched within the pools; the best "
        f"{result['retrieval_top_k']} are read, the same ones in every format. Percent with 95 % bootstrap "
        f"intervals over questions, seed {result['seed']}; differences are paired.",
        markdown_table(header, sizes),
        verdicts(result),
    ]
    for name, summary in result["files"].items():
        parts += [f"## {name}: {summary['questions']} questions"]
        parts += [means_table(summary, METRICS, "format"), differences_table(summary, METRICS, "format")]
    return "\n\n".join(parts) + "\n"


def verdicts(result: Mapping[str, Any]) -> str:
    """For each format, whether F1 over all files is within the margin, with its interval."""
    lines = []
    for name, row in result["files"][ALL]["differences"].items():
        found = row[F1]
        mean = "" if abs(found["difference"]) <= MARGIN else "**not** "
        whole = "too" if max(abs(found["low"]), abs(found["high"])) <= MARGIN else "not"
        lines.append(
            f"- {name}, {COLUMNS.get(F1, F1)}: the difference is {mean}within {100 * MARGIN:g} points, its "
            f"whole interval is {whole}."
        )
    return "\n".join(lines)


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Differences of F1 from bf16 by file, with intervals and the margin."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes, names = figure.subplots(), list(result["files"])
    for place, name in enumerate(FORMATS[1:]):
        rows = [part["differences"][name][F1] for part in result["files"].values()]
        heights, bars = error_bars([{**row, "mean": row["difference"]} for row in rows])
        places = [number + 0.2 * (place - 0.5) for number in range(len(names))]
        label = f"{name} ({result['bytes'][name]:,.0f} bytes)"
        axes.errorbar(places, heights, yerr=bars, marker="o", capsize=3, linestyle="none", label=label)
    axes.axhspan(-100 * MARGIN, 100 * MARGIN, color="grey", alpha=0.25)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xticks(range(len(names)), [name.removesuffix(".jsonl") for name in names])
    title = f"{COLUMNS.get(F1, F1)}, minus {REFERENCE}"
    axes.set(xlim=(-0.5, len(names) - 0.5), ylabel="points", title=title)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
