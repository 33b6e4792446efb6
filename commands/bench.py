"""Measure speed against alternatives: compression, latency, generation, search, training, store.

Every ratio comes from one run in which the compared variants take turns. Nothing else should run beside it.
With `--output` the folder gets `bench.json` and `bench.md`, written anew after each benchmark.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bench_corpus import add_store_arguments, store_sections
from .models import EMBEDDED, SHIPPED, is_checkpoint

if TYPE_CHECKING:
    from ..evaluation.speed.report import Section
    from ..evaluation.speed.rows import Rows
    from ..evaluation.speed.sizes import Sizes
    from ..modeling_clara import ClaraForRetrievalGeneration

BENCHMARKS = ("compression", "latency", "generation", "search", "train")
PRESETS = (EMBEDDED, "mistral-7b")
DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara bench`."""
    parser.add_argument("benchmark", nargs="?", choices=(*BENCHMARKS, "store", "all"), default="all")
    parser.add_argument(
        "--model",
        metavar="PATH_OR_ID",
        help="CLaRa checkpoint or causal LM (default: the shipped checkpoint, else the preset)",
    )
    parser.add_argument("--preset", choices=PRESETS, help=f"shape of the model (default: {EMBEDDED})")
    parser.add_argument("--random-weights", action="store_true", help="make the preset, load nothing")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: the accelerator if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: the model's own)")
    parser.add_argument(
        "--attn-implementation",
        metavar="NAME",
        help="attention of transformers, such as eager (default: the model's own)",
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds (default: %(default)s)")
    files = parser.add_argument_group("rows for `train` (default: made of the sample corpus)")
    files.add_argument("--questions", type=Path, metavar="FILE", help="question rows")
    files.add_argument("--corpus", type=Path, metavar="FILE", help="documents that fill their pools, by BM25")
    files.add_argument("--pretraining", type=Path, nargs="+", metavar="FILE", help="pretraining rows")
    add_store_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    from ..evaluation.devices import choose_device
    from ..evaluation.speed import report
    from ..evaluation.speed.sizes import sizes_for
    from ..evaluation.speed.timing import environment

    check(arguments)
    device = choose_device(arguments.device)
    model = load(arguments, device)
    facts = {"model": model_name(arguments), **environment(model), "repeats": arguments.repeats}
    sections: list[Section] = []
    command = f"\nMade by `{shlex.join(['clara', *sys.argv[1:]])}`.\n"
    page = f"# Speed\n\n{report.head(facts)}{command}"
    print(page)
    for section in measured(arguments, model, sizes_for(device)):
        sections.append(section)
        text = report.section_markdown(section)
        print(text, flush=True)
        page += f"\n{text}"
        if arguments.output:
            report.write_report(arguments.output, report.as_document(facts, sections), page)


def check(arguments: argparse.Namespace) -> None:
    """Raises a `ValueError` for arguments that do not go together."""
    if arguments.repeats < 1:
        raise ValueError(f"`--repeats` must be at least 1, got {arguments.repeats}.")
    if arguments.model and (arguments.preset or arguments.random_weights):
        raise ValueError("`--model` names a model of its own: leave `--preset` and `--random-weights` out.")
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
    if arguments.model or arguments.preset:
        return arguments.model or arguments.preset
    return SHIPPED.name if SHIPPED.is_dir() else EMBEDDED


def load(arguments: argparse.Namespace, device: Any) -> ClaraForRetrievalGeneration:
    """The model, on its device in its dtype, with the attention asked for."""
    model = _loaded(arguments, device)
    if arguments.attn_implementation:
        model.set_attn_implementation(arguments.attn_implementation)
    return model


def _loaded(arguments: argparse.Namespace, device: Any) -> ClaraForRetrievalGeneration:
    import torch

    from ..evaluation.speed.models import random_model
    from ..modeling_clara import ClaraForRetrievalGeneration

    dtype = {"dtype": getattr(torch, arguments.dtype)} if arguments.dtype else {}
    if arguments.random_weights:
        return random_model(arguments.preset or EMBEDDED, device, **dtype)
    shipped = str(SHIPPED) if SHIPPED.is_dir() and not arguments.preset else EMBEDDED
    name = arguments.model or shipped
    if is_checkpoint(name):
        return ClaraForRetrievalGeneration.from_pretrained(name, **dtype).to(device)
    return ClaraForRetrievalGeneration.from_base(name, lora_dropout=0.0, **dtype).to(device)


def measured(
    arguments: argparse.Namespace, model: ClaraForRetrievalGeneration, sizes: Sizes
) -> Iterator[Section]:
    """The sections asked for, each when it is done; training comes last, since it changes the mode."""
    from ..evaluation.speed.compression import bench_compression
    from ..evaluation.speed.generation import bench_generation
    from ..evaluation.speed.latency import bench_latency
    from ..evaluation.speed.search import bench_search
    from ..evaluation.speed.training import bench_training

    benches = {
        "compression": bench_compression,
        "latency": bench_latency,
        "generation": bench_generation,
        "search": bench_search,
    }
    if arguments.benchmark == "store":
        yield from store_sections(arguments, model)
        return
    names = BENCHMARKS if arguments.benchmark == "all" else (arguments.benchmark,)
    for name in names:
        if name in benches:
            yield benches[name](model, sizes, arguments.repeats)
        else:
            yield from bench_training(model, rows(arguments, sizes), sizes, arguments.repeats)


def rows(arguments: argparse.Namespace, sizes: Sizes) -> Rows:
    """The rows of `train`: two rounds see rows of their own, later rounds see them again."""
    from ..evaluation.speed.rows import file_rows, sample_rows

    rounds = min(arguments.repeats, 2)
    if arguments.questions is None:
        return sample_rows(sizes, rounds)
    return file_rows(arguments.questions, arguments.corpus, arguments.pretraining, sizes, rounds)
