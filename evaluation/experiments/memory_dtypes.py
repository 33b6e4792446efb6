"""What storing memories in fewer bytes costs: retrieval and answers from bf16, int8 and int4 memories.

Every candidate is compressed once. Its memory is then written to a store in each format and read back from
there, as `clara build-memory --dtype` and `clara ask` do; each store is searched within the questions' pools
and answered from. The questions are the same for all formats, so each is compared with bf16 by a paired
bootstrap, over all files together and over each.

Stores and answers are kept in `--runs`: a run that was cut off goes on there.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clara.documents_clara import Passages
from clara.formats_clara import memory_bytes
from clara.manifest_clara import MANIFEST
from clara.memory_clara import CorpusMemory, CorpusMemoryWriter
from clara.modeling_clara import ClaraForRetrievalGeneration

from ..benchmarks import Benchmark, build_benchmark
from ..language_models import ClaraModel, MemoryModel, memory_folder
from ..readers import MemoryReader
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
F1, COVER = "token_f1", "cover_exact_match"
MARGIN = 0.003
ALL = "all files"
COPIED_ROWS = 1024


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
        help="stores and answers",
    )


def measure(arguments: argparse.Namespace, model: ClaraForRetrievalGeneration) -> dict[str, Any]:
    """Retrieval and answers by format, over all files and over each, as JSON values.

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
        folder: Where the memories go; the stores of the formats lie beside it.
    """
    passages = model.split(benchmark.documents)
    memory = model.compress(passages, folder)
    predictions = {
        name: answers_from(
            arguments,
            model,
            benchmark,
            passages,
            stored_as(memory, name, folder.with_name(f"{folder.name}-{name}")),
        )
        for name in FORMATS
    }
    groups = {ALL: range(len(benchmark.examples)), **(files if len(files) > 1 else {})}
    each = len(passages.texts) / len(benchmark.documents)
    shape = (memory.num_memory_tokens, memory.hidden_size)
    return {
        "source": ", ".join(files),
        "seed": arguments.seed,
        "retrieval_top_k": arguments.retrieval_top_k,
        "compressed_in": memory.stored_dtype,
        "documents": len(benchmark.documents),
        "passages": len(passages.texts),
        "bytes": {name: each * memory_bytes(name, shape) for name in FORMATS},
        "same": {name: same_as(predictions[name], predictions[REFERENCE]) for name in FORMATS[1:]},
        "files": {
            name: {"questions": len(rows), **_summary(arguments, benchmark, predictions, rows)}
            for name, rows in groups.items()
        },
    }


def stored_as(memory: CorpusMemory, dtype: str, folder: Path) -> CorpusMemory:
    """The memories in another format: written to a store and opened there; one that is there is opened."""
    if not (folder / MANIFEST).exists():
        with CorpusMemoryWriter(folder, memory.fingerprint, memory.base, dtype=dtype) as writer:
            for start in range(0, len(memory), COPIED_ROWS):
                rows = slice(start, min(len(memory), start + COPIED_ROWS))
                columns = (memory.texts, memory.document_ids, memory.metadata, memory.parents, memory.orders)
                writer.add(memory[rows], *(list(column[rows]) for column in columns))
            writer.finish()
    return CorpusMemory.from_pretrained(folder, memory.fingerprint)


def answers_from(
    arguments: argparse.Namespace,
    model: MemoryModel,
    benchmark: Benchmark,
    passages: Passages,
    memory: CorpusMemory,
) -> list[Prediction]:
    """What is found in the pools by these memories, and answered from them; kept in a file of `--runs`."""
    settings = {
        "format": memory.stored_dtype,
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
    path = arguments.runs / f"{memory.stored_dtype}-{run_fingerprint(settings)[:12]}.jsonl"
    return run_system(system, benchmark.examples, path, settings, arguments.batch_size)


def same_as(predictions: Sequence[Prediction], others: Sequence[Prediction]) -> dict[str, float]:
    """Share of the questions that have the same documents in the same order, and the same answer."""
    pairs = list(zip(predictions, others, strict=True))
    return {
        "documents": sum(one.documents == other.documents for one, other in pairs) / len(pairs),
        "answer": sum(one.answer == other.answer for one, other in pairs) / len(pairs),
    }


def _summary(
    arguments: argparse.Namespace,
    benchmark: Benchmark,
    predictions: Mapping[str, Sequence[Prediction]],
    rows: Sequence[int],
) -> dict[str, Any]:
    """Means and paired differences over some of the questions."""
    k = arguments.retrieval_top_k
    examples = [benchmark.examples[row] for row in rows]
    conditions: dict[str, Scores] = {}
    for name, found in predictions.items():
        scores = score_predictions(examples, [found[row] for row in rows], [k])
        conditions[name] = {metric: scores[metric] for metric in _metrics(k) if metric in scores}
    return summarize(conditions, REFERENCE, arguments.seed)


def _metrics(k: int) -> tuple[str, ...]:
    return (f"recall@{k}", F1, COVER)


def _judged(result: Mapping[str, Any]) -> list[str]:
    """The metrics that have a margin: recall, where a question names positives, and F1."""
    measured = result["files"][ALL]["means"][REFERENCE]
    return [metric for metric in _metrics(result["retrieval_top_k"])[:2] if metric in measured]


def render(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    metrics = _metrics(result["retrieval_top_k"])
    reference = result["bytes"][REFERENCE]
    sizes = [
        [
            name,
            f"{size:,.0f}",
            f"{size / reference:.3f}",
            *(
                f"{100 * result['same'][name][part]:.1f}" if name in result["same"] else ""
                for part in ("documents", "answer")
            ),
        ]
        for name, size in result["bytes"].items()
    ]
    header = ["format", "bytes a document", f"of {REFERENCE}", "same documents, %", "same answer, %"]
    parts = [
        "# Memories in fewer bytes",
        f"{result['documents']} documents ({result['passages']} passages) of {result['source']}, compressed "
        f"once in {result['compressed_in']}, stored in each format, searched within the pools; the best "
        f"{result['retrieval_top_k']} are read. Percent with 95 % bootstrap intervals over questions, seed "
        f"{result['seed']}; differences are paired. Recall counts documents, over the questions that name "
        "positives.",
        markdown_table(header, sizes),
        verdicts(result),
    ]
    for name, summary in result["files"].items():
        parts += [f"## {name}: {summary['questions']} questions"]
        parts += [means_table(summary, metrics, "format"), differences_table(summary, metrics, "format")]
    return "\n\n".join(parts) + "\n"


def verdicts(result: Mapping[str, Any]) -> str:
    """For each format, whether recall and F1 over all files are within the margin, with their intervals."""
    lines = []
    for name, row in result["files"][ALL]["differences"].items():
        for metric in _judged(result):
            found = row[metric]
            mean = "" if abs(found["difference"]) <= MARGIN else "**not** "
            whole = "too" if max(abs(found["low"]), abs(found["high"])) <= MARGIN else "not"
            title = COLUMNS.get(metric, metric)
            lines.append(
                f"- {name}, {title}: the difference is {mean}within {100 * MARGIN:g} points, its whole "
                f"interval is {whole}."
            )
    return "\n".join(lines)


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Differences from bf16 by file, with intervals and the margin."""
    from matplotlib.figure import Figure

    metrics = _judged(result)
    figure = Figure(figsize=(5.5 * len(metrics), 4), layout="constrained")
    names = list(result["files"])
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for place, name in enumerate(FORMATS[1:]):
            rows = [part["differences"][name].get(metric) for part in result["files"].values()]
            there = [number for number, row in enumerate(rows) if row]
            intervals = [{**rows[number], "mean": rows[number]["difference"]} for number in there]
            heights, bars = error_bars(intervals)
            places = [number + 0.2 * (place - 0.5) for number in there]
            label = f"{name} ({result['bytes'][name]:,.0f} bytes)"
            axes.errorbar(places, heights, yerr=bars, marker="o", capsize=3, linestyle="none", label=label)
        axes.axhspan(-100 * MARGIN, 100 * MARGIN, color="grey", alpha=0.25)
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set_xticks(range(len(names)), [name.removesuffix(".jsonl") for name in names])
        axes.set(
            xlim=(-0.5, len(names) - 0.5),
            ylabel="points",
            title=f"{COLUMNS.get(metric, metric)}, minus {REFERENCE}",
        )
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
