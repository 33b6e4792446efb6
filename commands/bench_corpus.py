"""`clara bench store`: real documents, searched at scale."""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.sample_corpus import CORPUS, QUESTIONS
from .search_options import need_store, question_texts

if TYPE_CHECKING:
    from ..evaluation.speed.report import Section
    from ..memory_clara import CorpusMemory
    from ..modeling_clara import ClaraForRetrievalGeneration

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
STORED = ("bfloat16", "float16", "float32", "int8", "int4")


def add_store_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `clara bench store` to those of `clara bench`."""
    group = parser.add_argument_group(
        "store (with `--questions`: rows with `question`); it is not part of `all`"
    )
    group.add_argument(
        "--documents", type=Path, nargs="+", metavar="FILE", help="real ones (default: the sample corpus)"
    )
    group.add_argument("--real", type=int, default=4000, metavar="N", help="documents compressed at most")
    group.add_argument(
        "--asked",
        type=int,
        default=64,
        metavar="N",
        help="questions that are timed (default: 64); the others of the file choose the effort of the index",
    )
    group.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="passages (default: 10k … 1M)"
    )
    group.add_argument(
        "--folder", type=Path, help="for the stores, some 10 KB a passage (default: temporary)"
    )
    group.add_argument("--kind", default="IVF_RQ", help="of index, as Lance calls it (default: %(default)s)")
    group.add_argument("--stored", choices=STORED, default="bfloat16", help="format of the stored memories")


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
    """Memories of the first `--real` documents, kept in the folder for the next run.

    Raises:
        ValueError: If the folder holds those of other documents or another model.
    """
    from ..data.documents import read_documents

    documents = read_documents(arguments.documents or [CORPUS])
    chosen = list(islice(documents, arguments.real))
    if (folder / "memory.json").is_file():
        memory = model.load_memory(str(folder))
        parents = set(memory.parents)
        if {str(document["id"]) for document in chosen} != parents or memory.dtype != arguments.stored:
            raise ValueError(
                f"{folder} holds memories of other documents, or of another format: remove it or name "
                "another folder."
            )
        return memory
    memory = model.build_memory(chosen, batch_size=16, dtype=arguments.stored)
    memory.save_pretrained(folder)
    return memory
