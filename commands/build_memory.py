"""Compress documents from files into a corpus memory that `clara ask` answers from.

Reads .txt, .md, .rst, .html, .pdf, .docx, .pptx and .xlsx files, which are one document each, .jsonl, .json
and .parquet files, whose rows are one each (`text`, and optionally `id`, `title` and metadata), .csv and .tsv
files, and folders of them. What gives no text is left out and listed. The documents are cut into shards,
which several processes or machines compress; a build that was stopped goes on at the shard where it stopped
when the same command is given again. The store's rows do not depend on the number of workers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .display import show_sizes, show_skipped, watching
from .memory import INDEXES, add_document_arguments
from .models import add_model_arguments, load_model, warn_untrained
from .search_options import add_milvus_argument, check_milvus, fill_milvus, need_store, question_texts

if TYPE_CHECKING:
    from ..modeling_clara import ClaraForRetrievalGeneration
    from ..store.build import BuildPlan, StoreBuild

FORMATS = ("float32", "bfloat16", "float16", "int8", "int4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara build-memory`."""
    add = parser.add_argument
    add_document_arguments(add)
    add("--output", required=True, metavar="FOLDER", help="where the corpus memory goes")
    kinds = ("auto", "none", *INDEXES)
    add("--index", choices=kinds, default="auto", help="of vectors (default: IVF_RQ from 200,000 on)")
    chosen = "rows with real ones, by which the effort of the index is chosen (default: passages)"
    add("--questions", type=Path, metavar="FILE", help=chosen)
    purpose = "also put the search vectors into Milvus, in place of earlier ones of this store"
    add_milvus_argument(parser, purpose)
    add_model_arguments(parser)
    add("--dtype", choices=FORMATS, help="of the stored memories (default: the model's)")
    add("--restart", action="store_true", help="throw away what a stopped build has done")
    add("--dry-run", action="store_true", help="only say how large the store would be in every format")
    add("--workers", type=int, help="processes (default: one a core or GPU)")
    add("--threads", type=int, help="threads of each worker (default: 1, or all cores if there is one shard)")
    add("--shard-size", type=int, help="documents in a shard (default: 4096 or more)")
    add("--executor", choices=("local", "slurm", "ray"), default="local", help="where the workers run")
    add("--tasks", type=int, help="tasks of a cluster (default: one a shard)")
    more = "more arguments of the datatrove executor, such as Slurm's partition and time"
    add("--executor-options", type=json.loads, default={}, help=more)


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
    """Plans the build, compresses the parts and makes the store of them."""
    from tqdm.auto import tqdm

    need_store()
    from ..data.bulk.plan import survey
    from ..data.bulk.sizes import count_passages, sizes
    from ..data.skipped import Skipped
    from ..store import CorpusStore
    from ..store.build import StoreBuild

    _check(arguments)
    # read first: a bad row is met before hours of work
    questions = None if arguments.questions is None else question_texts(arguments.questions)
    if arguments.milvus is not None and not arguments.dry_run:
        check_milvus(arguments.milvus)
    build = StoreBuild(Path(arguments.output).expanduser())
    if not arguments.dry_run and not build.begun and CorpusStore.open(build.uri).version:
        raise FileExistsError(
            f"{build.uri} holds a stored corpus memory already: remove it, name another folder, or add to it "
            "with `CorpusStore.append`."
        )
    skipped = Skipped(arguments.strict, quiet=True)
    with tqdm(desc="reading", unit="document", delay=1) as bar:
        corpus = survey(arguments.paths, arguments.shard_size, bar.update, skipped)
    show_skipped(skipped)
    model, trained = load_model(arguments.model, arguments.device)
    if arguments.dry_run:
        count = count_passages(corpus, model.processor)
        show_sizes(corpus, count, sizes(count, corpus.text_bytes, model))
        return
    warn_untrained(trained)
    plan = _plan(corpus, model, arguments)
    del model
    if arguments.restart:
        build.discard()
    build.begin(plan)
    if arguments.executor == "local":
        _build_here(build, plan, arguments, questions)
    else:
        _build_elsewhere(build, plan, arguments)


def wants_index(passages: int, index: str) -> bool:
    """Whether there is to be an index; `auto`: from 200,000 passages on."""
    from ..store.indexes import INDEXED_FROM

    return index != "none" if index != "auto" else passages >= INDEXED_FROM


def _check(arguments: argparse.Namespace) -> None:
    for name in ("batch_size", "workers", "threads", "shard_size", "tasks"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"`--{name.replace('_', '-')}` must be at least 1, got {value}.")
    if arguments.milvus is not None and arguments.executor != "local":
        raise ValueError(
            "`--milvus` reads the vectors of a store that this machine has built: leave `--executor` out, or "
            "call `MilvusMemory.build` when the store is there."
        )


def _plan(corpus: Any, model: ClaraForRetrievalGeneration, arguments: argparse.Namespace) -> BuildPlan:
    import os

    from ..data.bulk.plan import plan_for
    from ..retrieval_clara import format_name

    threads = arguments.threads or ((os.cpu_count() or 1) if len(corpus.starts) == 1 else 1)
    dtype = format_name(arguments.dtype or model.dtype)
    return plan_for(model, corpus, dtype, arguments.batch_size, threads)


def _build_here(
    build: StoreBuild, plan: BuildPlan, arguments: argparse.Namespace, questions: list[str] | None
) -> None:
    """Builds with processes of this machine, and says how far it is."""
    from ..data.bulk.build import build_parts

    workers = min(arguments.workers or _processors(plan.source["device"]), plan.parts)
    open_model = OpenModel(arguments.model, arguments.device)
    with _shown(build, plan):
        if workers == 1:
            build_parts(build.uri, range(plan.parts), open_model)
        else:
            from ..data.bulk.pipeline import build_pipeline

            build_pipeline(build.uri, open_model, "local", workers)[0].run()
    store = build.commit()
    documents = plan.source["corpus"]["documents"]
    print(f"{documents} documents ({len(store)} passages) are in {build.uri}.")
    if wants_index(len(store), arguments.index):
        asked = None if questions is None else open_model().question_vectors(questions)
        store.build_index(asked, index_type="IVF_RQ" if arguments.index == "auto" else arguments.index)
        print("Its index of vectors is built.")
    if arguments.milvus is not None:
        fill_milvus(store, arguments.milvus)
        print(f"Its search vectors are in {arguments.milvus}.")


def _build_elsewhere(build: StoreBuild, plan: BuildPlan, arguments: argparse.Namespace) -> None:
    from ..data.bulk.pipeline import build_pipeline

    workers = arguments.workers or -1
    open_model = OpenModel(arguments.model, arguments.device)
    build_pipeline(
        build.uri, open_model, arguments.executor, workers, arguments.tasks, **arguments.executor_options
    )[1].run()
    done = "submitted; the memory will be" if arguments.executor == "slurm" else "the memory is"
    print(f"{plan.source['corpus']['documents']} documents in {plan.parts} parts: {done} in {build.uri}.")


def _processors(device: str) -> int:
    import importlib.util
    import os

    import torch

    if importlib.util.find_spec("datatrove") is None:
        return 1
    return torch.cuda.device_count() if device == "cuda" else os.cpu_count() or 1


@contextmanager
def _shown(build: StoreBuild, plan: BuildPlan) -> Iterator[None]:
    """Shows documents, passages a second and remaining time, which workers note after every batch."""
    from tqdm.auto import tqdm

    from ..data.bulk.build import count_done

    before, had = count_done(build)
    with tqdm(
        total=plan.source["corpus"]["documents"],
        initial=before,
        desc="compressing",
        unit="document",
        smoothing=0.05,
    ) as bar:
        begun = 0.0

        def look(over: bool) -> None:
            nonlocal begun
            documents, passages = count_done(build)
            elapsed = bar.format_dict["elapsed"]
            begun = elapsed if passages == had and not over else begun  # models are loaded till then
            rate = (passages - had) / (elapsed - begun or 1)
            bar.set_postfix_str(f"{rate:.1f} passages/s", refresh=False)
            bar.update(documents - bar.n)

        with watching(look):
            yield
