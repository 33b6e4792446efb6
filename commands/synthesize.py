"""Make training rows from documents with a teacher model.

Stage pretraining (the default) writes questions, answers and paraphrases of the documents, verified by the
teacher and by rules. Stage instruction_tuning lets the teacher answer --questions from retrieved documents.
Stage end_to_end gives every question of --questions a pool of candidates and needs no teacher. A run that
was cut off goes on where it was when the same command is given again; no finished call is repeated.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

from .display import watching

STAGES = ("pretraining", "instruction_tuning", "end_to_end")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `clara synthesize`."""
    add = parser.add_argument
    add("documents", nargs="+", help="files and folders, as of `clara build-memory`")
    add("--output", required=True, help="folder for rows, report and state")
    add(
        "--teacher",
        help="address of an OpenAI-compatible server, local:MODEL, or scripted (rules, for dry runs)",
    )
    add("--model", help="the model's name at the server (default: the server's first)")
    add("--stage", choices=STAGES, default=STAGES[0])
    add("--questions", help="questions for instruction_tuning and end_to_end: .jsonl or .parquet rows")
    add("--limit", type=int, help="the most passages (or questions)")
    add("--format", choices=("jsonl", "parquet"), default="jsonl")
    add("--evaluation", nargs="*", default=[], help="question files to keep out of the training rows")
    add("--push-to", metavar="OWNER/NAME", help="upload the finished rows as a data set to the Hub")
    _add_work(parser.add_argument_group("what is made"))
    add = parser.add_argument_group("how the teacher is called").add_argument
    add("--concurrency", type=int, default=64, help="the most calls in flight, in each task")
    add("--timeout", type=float, default=120.0, help="seconds to wait for a reply (default: 120)")
    add("--patience", type=float, default=600.0, help="seconds without any reply before the run stops")
    add("--batch-size", type=int, default=8, help="requests in a batch of a local model")
    add("--extra-body", type=json.loads, default={}, help="further fields of every request")
    add("--input-price", type=float, default=0.0, help="price of a million read tokens, to show the cost")
    add("--output-price", type=float, default=0.0, help="price of a million written tokens")
    add = parser.add_argument_group("where it runs").add_argument
    add("--executor", choices=("local", "slurm", "ray"), default="local")
    add("--tasks", type=int, default=1, help="shares of the work; fixed for an output folder")
    add("--executor-options", type=json.loads, default={}, help="arguments of the executor")


def _add_work(group: Any) -> None:
    add = group.add_argument
    add(
        "--kinds", nargs="+", default=["simple", "complex", "paraphrase"], help="signals of stage pretraining"
    )
    add("--max-questions", type=int, default=12, help="the most questions asked for at once")
    add("--max-rounds", type=int, default=10, help="rounds of supplementary questions")
    add("--max-attempts", type=int, default=3, help="attempts at a paraphrase")
    add("--max-tokens", type=int, default=1024, help="the most tokens of a reply")
    add("--passage-words", type=int, default=150, help="the most words of a passage")
    add("--seed", type=int, default=0)
    add("--documents-each", type=int, default=5, help="documents for a question of instruction_tuning")
    add("--pool-size", type=int, default=20, help="candidates for a question of end_to_end")
    add("--as-retrieved", action="store_true", help="do not force known positives into the pools")
    add(
        "--without-answers", action="store_true", help="leave out candidates that contain an answer by chance"
    )
    add(
        "--clara",
        metavar="PATH_OR_ID",
        help="a checkpoint: `documents` is then a corpus memory of it, and its memories find candidates of "
        "end_to_end in turns with BM25 (hard ones, to train the next checkpoint on)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the synthesis, or goes on with it, and says what it yielded."""
    if arguments.stage != "pretraining" and not arguments.questions:
        raise ValueError(f"`--questions` is needed for stage {arguments.stage}.")
    if arguments.stage == "end_to_end":
        _run_end_to_end(arguments)
    else:
        _run_pipeline(arguments)
    if arguments.push_to and arguments.executor != "slurm":
        from ..data.synthesis.report import push_to_hub

        print(push_to_hub(arguments.output, arguments.push_to))


def _run_end_to_end(arguments: argparse.Namespace) -> None:
    from ..data.synthesis.finish import write_end_to_end

    mined = {} if arguments.clara is None else _mined(arguments.clara, arguments.documents)
    rows = write_end_to_end(
        arguments.documents,
        arguments.questions,
        arguments.output,
        arguments.pool_size,
        arguments.limit,
        arguments.passage_words,
        arguments.format,
        force_positives=not arguments.as_retrieved,
        without_answers=arguments.without_answers,
        **mined,
    )
    print(f"{rows} rows in {Path(arguments.output) / 'data'}")


def _mined(checkpoint: str, documents: list[str]) -> dict[str, Any]:
    """The retriever of `--clara`, and what the card calls it."""
    from ..data.synthesis.retrievers import BM25Retriever, ClaraRetriever, InTurns
    from .models import load_model
    from .search_options import open_memory

    if len(documents) != 1:
        raise ValueError(
            f"`--clara` searches one corpus memory, got {len(documents)} documents: name its folder."
        )
    model = load_model(checkpoint, None)[0]
    memory = open_memory(model, documents[0])
    found = InTurns(BM25Retriever(list(memory.texts)), ClaraRetriever(model, memory))
    return {"retriever": found, "found_by": "BM25 and CLaRa in turns"}


def _run_pipeline(arguments: argparse.Namespace) -> None:
    if not arguments.teacher:
        raise ValueError(f"`--teacher` is needed for stage {arguments.stage}.")
    try:
        import datatrove  # noqa: F401
        import openai  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error}: install the extra with `pip install 'clara-rag[synthesis]'`.") from error
    executor = _pipeline(arguments)
    if arguments.executor == "slurm":
        executor.run()
        print(f"submitted; the rows will be in {Path(arguments.output) / 'data'}")
        return
    total = sum(1 for _ in islice(_items(arguments), arguments.limit))
    prices = (arguments.input_price, arguments.output_price)
    with _progress(Path(arguments.output), total, prices):
        executor.run()
    text = (Path(arguments.output) / "report.md").read_text(encoding="utf-8")
    print(text.split("\n## ")[0].strip())
    print(f"\nRows: {Path(arguments.output) / 'data'}; report: {Path(arguments.output) / 'report.md'}")


def _pipeline(arguments: argparse.Namespace) -> Any:
    from ..data.synthesis.machine import SynthesisSettings
    from ..data.synthesis.pipeline import RunSettings, distillation_pipeline, pretraining_pipeline
    from ..data.synthesis.teacher import TeacherSettings

    teacher = _settings(TeacherSettings, arguments)
    where = _settings(RunSettings, arguments, options=arguments.executor_options)
    if arguments.stage == "instruction_tuning":
        return distillation_pipeline(
            arguments.documents,
            arguments.questions,
            arguments.output,
            teacher,
            arguments.documents_each,
            where,
            form=arguments.format,
        )
    settings = _settings(SynthesisSettings, arguments, kinds=tuple(arguments.kinds))
    options = {"form": arguments.format, "evaluation_files": arguments.evaluation}
    return pretraining_pipeline(arguments.documents, arguments.output, teacher, settings, where, **options)


def _settings(kind: type, arguments: argparse.Namespace, **others: Any) -> Any:
    """The settings of a kind, whose fields have the names of the options."""
    given = {field.name: getattr(arguments, field.name) for field in fields(kind) if field.name in arguments}
    return kind(**{**given, **others})


def _items(arguments: argparse.Namespace) -> Iterator[Any]:
    """Gives what the run will work on, for counting."""
    if arguments.stage == "instruction_tuning":
        from ..data.synthesis.questions import read_seeds

        return read_seeds(arguments.questions)
    from ..data.documents import read_documents
    from ..data.skipped import Skipped
    from ..data.synthesis.passages import read_passages

    documents = read_documents(arguments.documents, skipped=Skipped(quiet=True))
    return read_passages(documents, arguments.passage_words)


@contextmanager
def _progress(folder: Path, total: int, prices: tuple[float, float]) -> Iterator[None]:
    """Draws a bar of items, calls, tokens, yield and remaining time while the block runs."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..data.synthesis.report import total_progress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, refresh_per_second=2) as bar:
        task = bar.add_task("starting", total=total)

        def look(over: bool) -> None:
            totals = total_progress(folder)
            bar.update(task, completed=totals["items"], description=describe(totals, *prices))

        with watching(look):
            yield


def describe(totals: dict[str, int], input_price: float = 0.0, output_price: float = 0.0) -> str:
    """Says calls, tokens, yield and cost in one line; prices are for one million tokens."""
    yielded = totals["accepted"] / totals["items"] if totals["items"] else 0.0
    tokens = (totals["prompt_tokens"] + totals["completion_tokens"]) / 1e3
    cost = (totals["prompt_tokens"] * input_price + totals["completion_tokens"] * output_price) / 1e6
    line = f"{totals['calls']} calls, {tokens:.1f}k tokens, yield {yielded:.0%}"
    return f"{line}, cost {cost:.2f}" if input_price or output_price else line
