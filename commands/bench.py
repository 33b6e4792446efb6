"""Measure speed against alternatives: compression, latency, generation, search, training, start, store.

Every ratio comes from one run in which the compared variants take turns. Nothing else should run beside it.
`start` (a cold `clara ask`) and `store` are not part of `all`. With `--output` the folder gets `bench.json`
and `bench.md`, written anew after each benchmark.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.sample_corpus import CORPUS, QUESTIONS
from .models import EMBEDDED, SHIPPED, add_model_arguments, load_model
from .search_options import need_store, question_texts

if TYPE_CHECKING:
    from ..evaluation.speed.report import Section
    from ..evaluation.speed.rows import Rows
    from ..evaluation.speed.workload import Sizes
    from ..memory_clara import CorpusMemory
    from ..modeling_clara import ClaraForRetrievalGeneration

BENCHMARKS = ("compression", "latency", "generation", "search", "train")
PRESETS = (EMBEDDED, "mistral-7b")
DTYPES = ("float32", "bfloat16", "float16")
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
STORED = ("bfloat16", "float16", "float32", "int8", "int4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara bench`."""
    add = parser.add_argument
    add("benchmark", nargs="?", choices=(*BENCHMARKS, "start", "store", "all"), default="all")
    add_model_arguments(parser)
    add("--preset", choices=PRESETS, help=f"shape of the model (default: {EMBEDDED})")
    add("--random-weights", action="store_true", help="make the preset, load nothing")
    add("--dtype", choices=DTYPES, help="of the weights (default: the model's own)")
    add(
        "--attn-implementation",
        metavar="NAME",
        help="attention of transformers, such as eager (default: the model's own)",
    )
    add("--output", type=Path, metavar="FOLDER")
    add("--repeats", type=int, default=3, help="rounds")
    add = parser.add_argument_group("rows for `train` (default: made of the sample corpus)").add_argument
    add("--questions", type=Path, metavar="FILE", help="question rows")
    add("--corpus", type=Path, metavar="FILE", help="documents that fill their pools, by BM25")
    add("--pretraining", type=Path, nargs="+", metavar="FILE", help="pretraining rows")
    title = "store (with `--questions`: rows with `question`)"
    add = parser.add_argument_group(title).add_argument
    add("--documents", type=Path, nargs="+", metavar="FILE", help="real ones (default: the sample corpus)")
    add("--real", type=int, default=4000, help="documents compressed at most")
    add(
        "--asked",
        type=int,
        default=64,
        help="questions that are timed; the others of the file choose the effort of the index",
    )
    add("--sizes", type=int, nargs="+", default=SIZES, help="passages (default: 10k … 1M)")
    add("--folder", type=Path, help="for the stores, some 10 KB a passage (default: temporary)")
    add("--kind", default="IVF_RQ", help="of index, as Lance calls it")
    add("--stored", choices=STORED, default="bfloat16", help="format of the stored memories")


def run(arguments: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    from ..evaluation.speed import report, workload
    from ..evaluation.speed.timing import environment
    from ..evaluation.tables import write_report

    check(arguments)
    model = load(arguments)
    facts = {"model": model_name(arguments), **environment(model), "repeats": arguments.repeats}
    sections: list[Section] = []
    command = f"\nMade by `{shlex.join(['clara', *sys.argv[1:]])}`.\n"
    page = f"# Speed\n\n{report.head(facts)}{command}"
    print(page)
    for section in measured(arguments, model, workload.sizes_for(model.device)):
        sections.append(section)
        text = report.to_markdown(section)
        print(text, flush=True)
        page += f"\n{text}"
        if arguments.output:
            write_report(arguments.output / "bench", {"environment": facts, "sections": sections}, page)


def check(arguments: argparse.Namespace) -> None:
    """Raises a `ValueError` for arguments that do not go together."""
    if arguments.repeats < 1:
        raise ValueError(f"`--repeats` must be at least 1, got {arguments.repeats}.")
    if arguments.model and (arguments.preset or arguments.random_weights):
        raise ValueError("`--model` names a model of its own: leave `--preset` and `--random-weights` out.")
    if arguments.benchmark == "start" and (arguments.random_weights or arguments.dtype):
        raise ValueError(
            "`clara bench start` asks as a user does: leave `--random-weights` and `--dtype` out."
        )
    if arguments.preset not in (None, EMBEDDED) and not arguments.random_weights:
        raise ValueError(
            f"`--preset {arguments.preset}` has no weights here: add `--random-weights`, or name some with "
            "`--model`."
        )
    files = (arguments.questions, arguments.corpus, arguments.pretraining)
    if any(files) and not all(files) and arguments.benchmark != "store":
        raise ValueError("`--questions`, `--corpus` and `--pretraining` go together: give all three or none.")


def model_name(arguments: argparse.Namespace) -> str:
    """What the report calls the model."""
    if arguments.random_weights:
        return f"{arguments.preset or EMBEDDED}, random weights"
    return arguments.model or arguments.preset or (SHIPPED.name if SHIPPED.is_dir() else EMBEDDED)


def load(arguments: argparse.Namespace) -> ClaraForRetrievalGeneration:
    """The model, on its device in its dtype, with the attention asked for."""
    import torch

    from ..evaluation.devices import choose_device
    from ..evaluation.speed.workload import random_model

    dtype = {"dtype": getattr(torch, arguments.dtype)} if arguments.dtype else {}
    if arguments.random_weights:
        model = random_model(arguments.preset or EMBEDDED, choose_device(arguments.device), **dtype)
    else:
        name = arguments.model or arguments.preset
        model = load_model(name, arguments.device, lora_dropout=0.0, **dtype)[0]
    if arguments.attn_implementation:
        model.set_attn_implementation(arguments.attn_implementation)
    return model


def measured(
    arguments: argparse.Namespace, model: ClaraForRetrievalGeneration, sizes: Sizes
) -> Iterator[Section]:
    """The sections asked for, each when it is done; training comes last, since it changes the mode."""
    from ..evaluation.speed.answering import bench_generation, bench_latency, bench_search
    from ..evaluation.speed.compression import compression
    from ..evaluation.speed.training import bench_training

    benches = {"latency": bench_latency, "generation": bench_generation, "search": bench_search}
    if arguments.benchmark in ("start", "store"):
        yield (start_section if arguments.benchmark == "start" else store_section)(arguments, model)
        return
    for name in BENCHMARKS if arguments.benchmark == "all" else (arguments.benchmark,):
        if name == "compression":
            yield compression(model, sizes).section(arguments.repeats, model.device)
        elif name in benches:
            yield benches[name](model, sizes, arguments.repeats)
        else:
            yield from bench_training(model, rows(arguments, sizes), sizes, arguments.repeats)


def start_section(arguments: argparse.Namespace, model: ClaraForRetrievalGeneration) -> Section:
    """Times `clara ask` with the model as it is named here."""
    from ..evaluation.speed.start import bench_start
    from ..evaluation.speed.workload import sizes_for

    given = {"--model": arguments.model or arguments.preset, "--device": arguments.device}
    named = [word for option, value in given.items() if value for word in (option, value)]
    with tempfile.TemporaryDirectory() as folder:
        return bench_start(model, named, sizes_for(model.device), arguments.repeats, Path(folder))


def rows(arguments: argparse.Namespace, sizes: Sizes) -> Rows:
    """The rows of `train`: two rounds see rows of their own, later rounds see them again."""
    from ..evaluation.speed.rows import file_rows, sample_rows

    rounds = min(arguments.repeats, 2)
    if arguments.questions is None:
        return sample_rows(sizes, rounds)
    return file_rows(arguments.questions, arguments.corpus, arguments.pretraining, sizes, rounds)


def store_section(arguments: argparse.Namespace, model: ClaraForRetrievalGeneration) -> Section:
    """Compresses, enlarges, measures; writes the curve into the output folder."""
    from tqdm.auto import tqdm

    need_store()
    from ..evaluation.speed.store import Plan, bench_store, plot_curve

    questions, count = question_texts(arguments.questions or QUESTIONS), arguments.asked
    if len(questions) <= count:
        raise ValueError(
            f"`--asked` is {count} of {len(questions)} questions: leave some, to choose the effort."
        )
    with (
        tempfile.TemporaryDirectory() as temporary,
        tqdm(total=sum(arguments.sizes), desc="writing", unit="passage") as bar,
    ):
        folder = arguments.folder or Path(temporary)
        real = real_memory(model, arguments, folder / "real")
        plan = Plan(folder, tuple(arguments.sizes), arguments.repeats, arguments.kind, bar.update)
        vectors = model.question_vectors(questions)
        section = bench_store(real, vectors[:count], vectors[count:], plan)
    if arguments.output:
        plot_curve(json.loads(section["facts"]["curve"]), arguments.output / "store.png")
    return section


def real_memory(
    model: ClaraForRetrievalGeneration, arguments: argparse.Namespace, folder: Path
) -> CorpusMemory:
    """Memories of the first `--real` documents, kept in the folder; those of others are an error."""
    from ..data.documents import read_documents

    chosen = list(islice(read_documents(arguments.documents or [CORPUS]), arguments.real))
    if (folder / "memory.json").is_file():
        memory = model.load_memory(str(folder))
        ids = {document["id"] for document in chosen}
        if ids != set(memory.parents) or memory.dtype != arguments.stored:
            raise ValueError(
                f"{folder} holds memories of other documents, or of another format: remove it or name "
                "another folder."
            )
        return memory
    memory = model.build_memory(chosen, batch_size=16, dtype=arguments.stored)
    memory.save_pretrained(folder)
    return memory
