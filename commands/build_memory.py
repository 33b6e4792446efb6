"""Compress documents from files into a corpus memory that `clara ask` answers from.

Reads .txt, .md, .rst, .html, .pdf, .docx, .pptx and .xlsx files, which are one document each, .jsonl, .json
and .parquet files, whose rows are one each (`text`, and optionally `id`, `title` and metadata), .csv and .tsv
files, and folders of them. What gives no text is left out and listed. The documents are cut into shards,
which several processes or machines compress; a build that was stopped goes on at the shard where it stopped
when the same command is given again. The store's bytes do not depend on the number of workers.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .display import quiet_executor, show_sizes, show_skipped
from .models import add_model_arguments, load_model, warn_untrained
from .searching import KINDS, add_milvus_argument, check_milvus, fill_milvus, question_texts

if TYPE_CHECKING:
    from ..data.bulk.plan import Plan
    from ..modeling_clara import ClaraForRetrievalGeneration

FORMATS = ("float32", "bfloat16", "float16", "int8", "int4", "recompute")
INDEXES = ("auto", "none", *KINDS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara build-memory`."""
    add = parser.add_argument
    add("paths", nargs="+", metavar="FILE_OR_FOLDER")
    add("--output", required=True, metavar="FOLDER", help="where the corpus memory goes")
    add(
        "--strict",
        action="store_true",
        help="stop at a file or row that gives no text, instead of listing it",
    )
    add("--index", choices=INDEXES, default="auto", help="for search (default: from 100,000 passages on)")
    add(
        "--questions",
        type=Path,
        metavar="FILE",
        help="rows with real ones, of which the index learns (default: sentences of the corpus)",
    )
    add_milvus_argument(parser, "also put the sketches into Milvus, in place of earlier ones of this store")
    add_model_arguments(parser)
    add("--batch-size", type=int, default=16, metavar="N", help="passages compressed at once (default: 16)")
    add("--dtype", choices=FORMATS, help="of the stored memories (default: the model's)")
    add("--workers", type=int, metavar="N", help="processes (default: one a core or GPU)")
    add(
        "--threads",
        type=int,
        metavar="N",
        help="threads of each worker (default: 1, or all cores if there is one shard)",
    )
    add("--shard-size", type=int, metavar="N", help="documents in a shard (default: 4096 or more)")
    add("--executor", choices=("local", "slurm", "ray"), default="local", help="where the workers run")
    add("--tasks", type=int, metavar="N", help="tasks of a cluster (default: one a shard)")
    add(
        "--executor-options",
        type=json.loads,
        default={},
        metavar="JSON",
        help="more arguments of the datatrove executor, such as Slurm's partition and time",
    )
    add("--restart", action="store_true", help="throw away what a stopped build has done")
    add("--dry-run", action="store_true", help="only say how large the store would be in every mode")


@dataclass(frozen=True)
class OpenModel:
    """Opens the model in a worker; with several GPUs, each worker of a machine takes the next one."""

    name: str | None
    device: str | None

    def __call__(self) -> ClaraForRetrievalGeneration:
        """Loads the model."""
        import multiprocessing

        import torch

        device, count = self.device, torch.cuda.device_count()
        worker = multiprocessing.current_process().name.rpartition("-")[2]
        if device in (None, "cuda") and count > 1 and worker.isdecimal():
            device = f"cuda:{int(worker) % count}"
        return load_model(self.name, device)[0]


def run(arguments: argparse.Namespace) -> None:
    """Plans the build, compresses the shards and joins them into the store."""
    from tqdm.auto import tqdm

    from ..data.bulk.plan import survey
    from ..data.skipped import Skipped
    from ..manifest_clara import MANIFEST

    _check(arguments)
    # read first: a bad row is met before hours of work
    questions = None if arguments.questions is None else question_texts(arguments.questions)
    if arguments.milvus is not None and not arguments.dry_run:
        check_milvus(arguments.milvus)
    output = Path(arguments.output)
    if not arguments.dry_run and (output / MANIFEST).exists():
        raise FileExistsError(
            f"{output} holds a stored corpus memory already: remove it, or build into another folder and "
            "`append` that."
        )
    skipped = Skipped(arguments.strict, quiet=True)
    with tqdm(desc="reading", unit="document", delay=1) as bar:
        corpus = survey(arguments.paths, arguments.shard_size, bar.update, skipped)
    show_skipped(skipped)
    model, trained = load_model(arguments.model, arguments.device)
    if arguments.dry_run:
        show_sizes(*_sizes(corpus, model))
        return
    warn_untrained(trained)
    plan = _plan(corpus, model, arguments)
    del model
    if arguments.executor == "local":
        _build_here(output, plan, arguments, questions)
    else:
        _build_elsewhere(output, plan, arguments)


def build_index(
    model: ClaraForRetrievalGeneration, output: Path, kind: str, questions: list[str] | None
) -> None:
    """Builds the index of the store in a folder; `auto`: the kind by its size."""
    memory = model.load_memory(str(output), verify=False)
    model.build_index(memory, questions, kind=None if kind == "auto" else kind, show_progress=True)
    print(f"Its index ({memory.index.kind}): recall {memory.index.recall}.")


def wants_index(passages: int, arguments: argparse.Namespace) -> bool:
    """Whether there is to be an index; `auto`: from 100,000 passages on, where FAISS is installed."""
    from importlib.util import find_spec

    from ..index_clara import INDEXED_FROM

    if arguments.index != "auto":
        return arguments.index != "none"
    return passages >= INDEXED_FROM and find_spec("faiss") is not None and arguments.dtype != "recompute"


def _check(arguments: argparse.Namespace) -> None:
    for name in ("batch_size", "workers", "threads", "shard_size", "tasks"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"`--{name.replace('_', '-')}` must be at least 1, got {value}.")
    if arguments.milvus is not None and (arguments.executor != "local" or arguments.dtype == "recompute"):
        raise ValueError(
            "`--milvus` reads the memories of a store that this machine has built: leave `--executor` and "
            "`--dtype recompute` out, or call `MilvusMemory.build` when the store is there."
        )


def _sizes(corpus: Any, model: ClaraForRetrievalGeneration) -> tuple:
    from ..data.bulk.sizes import count_passages, sizes

    passages, exact = count_passages(corpus, model.processor.split_documents)
    return corpus, passages, exact, sizes(passages, corpus.text_bytes, model.memory_shape())


def _plan(corpus: Any, model: ClaraForRetrievalGeneration, arguments: argparse.Namespace) -> Plan:
    import os

    from ..data.bulk.plan import plan_for
    from ..formats_clara import format_name

    threads = arguments.threads or ((os.cpu_count() or 1) if len(corpus.starts) == 1 else 1)
    dtype = format_name(arguments.dtype or model.dtype)
    return plan_for(model, corpus, dtype, arguments.batch_size, threads)


def _begin(output: Path, plan: Plan, restart: bool) -> None:
    from ..data.bulk.build import BUILD, discard
    from ..data.bulk.plan import begin

    if restart:
        discard(output)
    begin(output / BUILD, plan)


def _build_here(output: Path, plan: Plan, arguments: argparse.Namespace, questions: list[str] | None) -> None:
    """Builds with processes of this machine, and says how far it is."""
    from ..data.bulk.build import build_shards, join
    from ..storage_clara import locked

    workers = min(arguments.workers or _processors(plan.device), plan.num_shards)
    open_model = OpenModel(arguments.model, arguments.device)
    with locked(output):
        _begin(output, plan, arguments.restart)
        with _shown(output, plan):
            if workers == 1:
                build_shards(output, range(plan.num_shards), open_model)
            else:
                from ..data.bulk.pipeline import build_pipeline

                with quiet_executor():
                    build_pipeline(output, open_model, "local", workers)[0].run()
        passages = join(output)
    print(f"{plan.corpus.documents} documents ({passages} passages) are in {output}.")
    indexed = wants_index(passages, arguments)
    if not indexed and arguments.milvus is None:
        return
    model = open_model()
    if arguments.milvus is not None:
        found = fill_milvus(model, output, arguments.milvus, questions)
        print(f"Its sketches are in {arguments.milvus}: recall {found.recall}.")
    if indexed:
        build_index(model, output, arguments.index, questions)


def _build_elsewhere(output: Path, plan: Plan, arguments: argparse.Namespace) -> None:
    from ..data.bulk.pipeline import build_pipeline

    _begin(output, plan, arguments.restart)
    workers = arguments.workers or -1
    open_model = OpenModel(arguments.model, arguments.device)
    build_pipeline(
        output, open_model, arguments.executor, workers, arguments.tasks, **arguments.executor_options
    )[1].run()
    done = "submitted; the memory will be" if arguments.executor == "slurm" else "the memory is"
    print(f"{plan.corpus.documents} documents in {plan.num_shards} shards: {done} in {output}.")


def _processors(device: str) -> int:
    import importlib.util
    import os

    import torch

    if importlib.util.find_spec("datatrove") is None:
        return 1
    return torch.cuda.device_count() if device == "cuda" else os.cpu_count() or 1


@contextmanager
def _shown(output: Path, plan: Plan) -> Iterator[None]:
    """A bar of documents and remaining time, from the files that the workers write, while the block runs."""
    from tqdm.auto import tqdm

    from ..data.bulk.build import count_done

    ended = threading.Event()
    before = count_done(output, plan)
    with tqdm(
        total=plan.corpus.documents, initial=before, desc="compressing", unit="document", smoothing=0.05
    ) as bar:

        def watch() -> None:
            while True:
                over = ended.wait(0.5)
                bar.update(count_done(output, plan) - bar.n)
                if over:
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
