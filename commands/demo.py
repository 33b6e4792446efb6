"""Compress the sample corpus, store it, search it and answer questions from it.

Everything runs through the public interface on the passages and questions that ship in data/samples:
build_memory, save_pretrained, load_memory, retrieve, generate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from ..data.sample_corpus import CORPUS, sample_documents, sample_questions
from .models import UNTRAINED, add_model_arguments, load_model

if TYPE_CHECKING:
    from ..memory_clara import CorpusMemory
    from ..modeling_clara import ClaraForRetrievalGeneration

MEANS = ("recall", "contains_gold", "text_tokens", "memory_tokens", "search_seconds", "answer_seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara demo`."""
    add = parser.add_argument
    add("--questions", type=int, default=6, help="questions to ask")
    add_model_arguments(parser)
    add("--compression-rate", type=int, metavar="R", help="text tokens a memory token (default: the model's)")
    add("--retrieval-top-k", type=int, metavar="K", help="documents to answer from (default: 5)")
    add("--max-new-tokens", type=int, default=24, help="longest answer")
    add("--output", metavar="FOLDER", help="keep the corpus memory here (default: thrown away)")
    add("--json", metavar="FILE", help="also write everything that is shown as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Runs the demo."""
    from . import display

    rows = read_questions(arguments.questions)
    (model, trained), seconds = timed(
        load_model, arguments.model, arguments.device, arguments.compression_rate
    )
    display.show_model(describe(model, trained, seconds))
    with tempfile.TemporaryDirectory() as scratch:
        memory, store = build_store(model, Path(arguments.output or Path(scratch) / "memory"))
        display.show_store(store)
        asked = []
        for row in rows:
            asked.append(ask(model, memory, row, arguments))
            display.show_question(len(asked), len(rows), asked[-1])
    report = {"model": describe(model, trained, seconds), "store": store, "questions": asked}
    report["summary"] = summarize(asked, len(memory))
    display.show_summary(report["summary"], trained)
    if arguments.output:
        display.show_next(arguments.output, arguments.model)
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def read_questions(count: int) -> list[dict[str, Any]]:
    """`count` of the sample questions spread over the file, with the ids of their positives."""
    documents, rows = sample_documents(), sample_questions()
    if not 1 <= count <= len(rows):
        raise ValueError(f"`--questions` must be between 1 and {len(rows)}, got {count}.")
    chosen = [rows[index * len(rows) // count] for index in range(count)]
    return [{**row, "positives": [documents[index]["id"] for index in row["positives"]]} for row in chosen]


def timed(function: Callable, *arguments: Any, **keywords: Any) -> tuple[Any, float]:
    """What the function returns, and the seconds it took."""
    start = time.perf_counter()
    result = function(*arguments, **keywords)
    return result, time.perf_counter() - start


def describe(model: ClaraForRetrievalGeneration, trained: bool, seconds: float) -> dict[str, Any]:
    """What the demo says about the model."""
    config = model.config
    return {
        "base": config.base_model_name_or_path,
        "trained": trained,
        "note": None if trained else UNTRAINED,
        "compression_rate": config.compression_rate,
        "num_memory_tokens": config.num_memory_tokens,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "load_seconds": seconds,
    }


def build_store(model: ClaraForRetrievalGeneration, folder: Path) -> tuple[CorpusMemory, dict[str, Any]]:
    """Compresses the sample corpus, stores it in `folder` and opens the store again."""
    from ..data.documents import read_documents

    documents = list(read_documents(CORPUS))
    built, compress_seconds = timed(model.build_memory, documents)
    _, save_seconds = timed(built.save_pretrained, str(folder))
    memory, load_seconds = timed(model.load_memory, str(folder))
    store = {
        "documents": len(documents),
        "passages": len(memory),
        "text_tokens": count_tokens(model, memory.texts),
        "memory_tokens": int(memory.offsets[-1]),
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "compress_seconds": compress_seconds,
        "save_seconds": save_seconds,
        "load_seconds": load_seconds,
    }
    return memory, store


def count_tokens(model: ClaraForRetrievalGeneration, texts: list[str]) -> int:
    """The tokens of texts as the generator would read them."""
    from ..prompts_clara import plain_ids

    return sum(map(len, plain_ids(model.processor.tokenizer, texts)))


def ask(
    model: ClaraForRetrievalGeneration,
    memory: CorpusMemory,
    row: dict[str, Any],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Searches for and answers one question; returns everything that is shown of it."""
    from ..evaluation.metrics import cover_exact_match
    from ..evaluation.ranking import recall_at_k

    question, k = row["question"], arguments.retrieval_top_k
    _, search_seconds = timed(model.retrieve, question, memory, retrieval_top_k=k)
    options = {"max_new_tokens": arguments.max_new_tokens, "return_dict_in_generate": True}
    out, answer_seconds = timed(model.generate, question, memory, retrieval_top_k=k, **options)
    parents = [memory.parents[index] for index in out.indices]
    return {
        "question": question,
        "answer": out.answers,
        "gold": row["answers"],
        "contains_gold": bool(cover_exact_match(out.answers, row["answers"])),
        "documents": [
            {"id": document_id, "score": score, "positive": parent in row["positives"]}
            for document_id, score, parent in zip(out.document_ids, out.scores.tolist(), parents, strict=True)
        ],
        "missed": [parent for parent in row["positives"] if parent not in parents],
        "recall": recall_at_k(parents, row["positives"], len(parents)),
        "text_tokens": count_tokens(model, [memory.texts[index] for index in out.indices]),
        "memory_tokens": sum(map(len, memory.gather(out.indices))),
        "search_seconds": search_seconds,
        "answer_seconds": answer_seconds,
    }


def summarize(asked: list[dict[str, Any]], passages: int) -> dict[str, Any]:
    """Means over the questions, and what choosing at random would find."""
    k = len(asked[0]["documents"])
    facts = {"questions": len(asked), "retrieval_top_k": k, "recall_by_chance": k / passages}
    return {**facts, **{name: mean(row[name] for row in asked) for name in MEANS}}
