"""Measure a model and its alternatives on a benchmark: predictions, a table with intervals, plots.

Writes into the output folder `predictions/SYSTEM.jsonl` (a run that was cut off continues there),
`report.md`, `report.json`, `tokens.png`, `bytes.png` and, for the next run, the documents' memories.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .models import add_model_arguments, load_model, warn_untrained
from .search_options import add_milvus_argument, check_milvus, fill_milvus, open_memory

if TYPE_CHECKING:
    from ..evaluation.benchmarks import Benchmark
    from ..evaluation.language_models import TextModel
    from ..evaluation.systems import Workbench
    from ..memory_clara import CorpusMemory
    from ..modeling_clara import ClaraForRetrievalGeneration

DEFAULT_SYSTEMS = "clara,clara_shuffled,closed_book,text,text_bm25,cut_bm25"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara evaluate`."""
    add = parser.add_argument
    add("--benchmark", required=True, help="nq, hotpotqa, musique or 2wiki")
    add("--file", help="rows of the benchmark (default: the paper's released rows from the Hub)")
    add("--setting", default="normal", help="normal (pools as retrieved) or oracle (positives forced in)")
    add(
        "--systems",
        default=DEFAULT_SYSTEMS,
        help="names separated by commas, or all; the first is what the others are compared with "
        "(default: %(default)s)",
    )
    add("--limit", type=int, help="only the first N questions")
    add("--pool-size", type=int, default=20, help="candidates")
    add("--retrieval-top-k", type=int, default=5, metavar="K", help="documents read")
    add("--search-only", action="store_true", help="answer nothing: the table says what is found")
    add("--max-new-tokens", type=int, default=64, help="longest answer")
    add("--batch-size", type=int, default=16, help="questions at once")
    add("--compression-rate", type=int, metavar="R", help="text tokens a memory token (default: the model's)")
    add("--seed", type=int, default=0, help="of intervals, tests and the shuffled control")
    add("--fill-pools", action="store_true", help="fill smaller pools by BM25 from all documents")
    add(
        "--corpus",
        metavar="STORE",
        help="a corpus memory by this model: its documents join those that systems such as clara_corpus "
        "search, and what it holds is not compressed again",
    )
    add("--encoder", help="sentence encoder of the dense systems (default: all-MiniLM-L6-v2)")
    add("--text-model", metavar="PATH_OR_ID", help="causal LM that reads text (default: the base)")
    add(
        "--tuned-model",
        metavar="PATH_OR_ID",
        help="PEFT adapter or causal LM tuned on text (`clara train text_baseline`), for the systems tuned…",
    )
    add_milvus_argument(parser, "search the whole corpus there, in systems such as clara_corpus")
    add("--output", required=True, type=Path, metavar="FOLDER")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Answers, scores and reports."""
    from ..evaluation.benchmarks import load_benchmark, whole_documents, with_documents
    from ..evaluation.language_models import ClaraModel, memory_folder
    from ..evaluation.systems import Workbench

    names = system_names(arguments)
    check_back_end(arguments, names)
    benchmark = load_benchmark(
        arguments.benchmark,
        arguments.setting,
        arguments.file,
        arguments.pool_size,
        arguments.fill_pools,
        arguments.limit,
    )
    model, trained = load_model(arguments.model, arguments.device, arguments.compression_rate)
    warn_untrained(trained)
    store = None if arguments.corpus is None else open_memory(model, arguments.corpus)
    if store is not None:
        benchmark = with_documents(benchmark, whole_documents(store))
    folder = memory_folder(arguments.output, model, benchmark.documents, store)
    workbench = Workbench(
        benchmark,
        ClaraModel(model, store),
        make_text_model(model, arguments.text_model),
        tuned_model=arguments.tuned_model and make_text_model(model, arguments.tuned_model),
        retrieval_top_k=arguments.retrieval_top_k,
        max_new_tokens=arguments.max_new_tokens,
        compression_rate=model.config.compression_rate,
        encoder=arguments.encoder,
        memory_folder=folder,
        seed=arguments.seed,
        search_only=arguments.search_only,
        open_corpus=arguments.milvus and partial(in_milvus, folder.with_suffix(".store"), arguments.milvus),
    )
    report(arguments, benchmark, workbench, names)


def in_milvus(folder: Path, uri: str, memory: CorpusMemory) -> Any:
    """The memories in a store, whose search vectors are put into Milvus."""
    from ..store import CorpusStore

    store = CorpusStore.open(folder, memory.fingerprint)
    if not len(store):
        store.append(memory)
    return fill_milvus(store, uri)


def system_names(arguments: argparse.Namespace) -> list[str]:
    """The systems asked for; `all` are those that the given models can make, no others are taken."""
    from ..evaluation.benchmarks import check_choice
    from ..evaluation.systems import SYSTEMS

    tuned = [name for name, recipe in SYSTEMS.items() if recipe.reader == "tuned"]
    if arguments.systems == "all":
        return [name for name in SYSTEMS if arguments.tuned_model or name not in tuned]
    names = arguments.systems.split(",")
    for name in names:
        check_choice("--systems", name, SYSTEMS)
        if name in tuned and not arguments.tuned_model:
            raise ValueError(
                f"`--systems {name}` needs `--tuned-model`: `clara train text_baseline` makes one."
            )
    return names


def check_back_end(arguments: argparse.Namespace, names: list[str]) -> None:
    """Raises an error if `--milvus` is given and no system would search there, or nothing answers there."""
    from ..evaluation.systems import SYSTEMS

    if arguments.milvus is None:
        return
    if not any(SYSTEMS[name].searches_corpus_memories for name in names):
        able = [name for name, recipe in SYSTEMS.items() if recipe.searches_corpus_memories]
        raise ValueError(
            f"`--milvus` needs a system that searches there: add one of {', '.join(able)} to `--systems`."
        )
    check_milvus(arguments.milvus)


def report(
    arguments: argparse.Namespace, benchmark: Benchmark, workbench: Workbench, names: list[str]
) -> None:
    """Runs each system, then writes and prints the report."""
    from ..evaluation.benchmarks import HUB_DATA
    from ..evaluation.plots import plot_quality
    from ..evaluation.reports import make_report, to_markdown
    from ..evaluation.runner import run_system
    from ..evaluation.tables import write_report

    predictions = {
        name: run_system(
            workbench.system(name),
            benchmark.examples,
            arguments.output / "predictions" / f"{name}.jsonl",
            workbench.settings(name),
            arguments.batch_size,
        )
        for name in names
    }
    stored = {name: workbench.bytes_per_passage(name) for name in names}
    k = arguments.retrieval_top_k
    cuts = [cut for cut in (1, 3, 5) if cut < k] + [k]
    scored = make_report(benchmark, predictions, stored, cuts, arguments.seed)
    scored["model"] = workbench.settings(names[0])["model"]
    scored["source"] = Path(arguments.file).name if arguments.file else HUB_DATA
    page = to_markdown(scored, shlex.join(["clara", *sys.argv[1:]]))
    write_report(arguments.output / "report", scored, page)
    plots = {} if arguments.search_only else {"tokens_read": "tokens.png", "bytes_per_passage": "bytes.png"}
    for cost, file in plots.items():
        plot_quality(scored, cost, arguments.output / file)
    print(page)


def make_text_model(model: ClaraForRetrievalGeneration, name: str | None) -> TextModel:
    """The model of the text systems: the base of `model`, or another one by name."""
    from ..evaluation.language_models import TextModel, base_of

    if name is None:
        return base_of(model)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text_model = AutoModelForCausalLM.from_pretrained(name, dtype=model.dtype).to(model.device).eval()
    tokenizer = AutoTokenizer.from_pretrained(name)
    limit = getattr(text_model.config.get_text_config(), "max_position_embeddings", model.config.prompt_limit)
    return TextModel(text_model, tokenizer, limit)
