"""Ask a stored corpus memory questions: each answer, then the documents it was read from."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .demo import timed
from .models import add_model_arguments, load_model, warn_untrained
from .search_options import add_search_arguments, check_memory, open_memory, search_options

if TYPE_CHECKING:
    from ..memory_clara import CorpusMemory
    from ..modeling_clara import ClaraForRetrievalGeneration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara ask`."""
    add_answer_arguments(parser)
    parser.add_argument("questions", nargs="+", metavar="QUESTION", help="one question or several")


def add_answer_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `clara ask` and `clara chat` have in common."""
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="a corpus memory: folder or Hub dataset repository")
    add_model_arguments(parser)
    add_search_arguments(parser)
    add("--retrieval-top-k", type=int, metavar="K", help="documents to answer from (default: 5)")
    add("--max-new-tokens", type=int, help="longest answer (default: the model's)")
    add(
        "--reading",
        choices=("together", "each"),
        help="read all memories in one prompt, as the paper does, or answer from each alone and keep the "
        "likeliest answer (default: as the checkpoint says)",
    )
    add("--json", action="store_true", help="print answer and sources as one JSON object")


def prepare(arguments: argparse.Namespace) -> tuple[ClaraForRetrievalGeneration, Any, dict[str, Any]]:
    """Model, memory and what `generate` is told; what is wrong is told before a model is loaded."""
    check_memory(arguments.folder)
    options = search_options(arguments)
    options |= {"retrieval_top_k": arguments.retrieval_top_k, "reading": arguments.reading}
    if arguments.max_new_tokens is not None:
        options["max_new_tokens"] = arguments.max_new_tokens
    model, trained = load_model(arguments.model, arguments.device)
    warn_untrained(trained)
    return model, open_memory(model, arguments.folder, arguments.milvus), options


def run(arguments: argparse.Namespace) -> None:
    """Answers the questions; an answer from memories read together is printed as it is written."""
    model, memory, options = prepare(arguments)
    for number, question in enumerate(arguments.questions):
        if len(arguments.questions) > 1 and not arguments.json:
            print("\n" * bool(number) + question)
        show_answer(model, memory, question, options, arguments.json)


def show_answer(
    model: ClaraForRetrievalGeneration,
    memory: CorpusMemory,
    question: str,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Prints an answer, while it is written unless it is JSON, with its sources."""
    from transformers import TextStreamer

    from . import display

    if as_json:
        print(json.dumps(answer(model, memory, question, options), ensure_ascii=False, indent=2))
    else:
        streamer = TextStreamer(model.processor.tokenizer, skip_special_tokens=True)
        display.show_sources(answer(model, memory, question, {**options, "streamer": streamer}))


def answer(
    model: ClaraForRetrievalGeneration, memory: CorpusMemory, question: str, options: dict[str, Any]
) -> dict[str, Any]:
    """The answer with its sources, best first."""
    out, seconds = timed(model.generate, question, memory, return_dict_in_generate=True, **options)
    documents = [
        {"id": document_id, "score": score, "text": memory.texts[index]}
        for document_id, index, score in zip(out.document_ids, out.indices, out.scores.tolist(), strict=True)
    ]
    return {"question": question, "answer": out.answers, "documents": documents, "seconds": seconds}
