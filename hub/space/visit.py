"""What one visit to the page does: reading documents, compressing, streaming answers, looking inside."""

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TextIteratorStreamer

from ...adapters_clara import evaluating
from ...bases.embedded import cache_folder
from ...data.documents import SUFFIXES, read_files
from ...data.markdown import markdown_document
from ...data.sample_corpus import sample_documents, sample_questions
from ...data.skipped import Skipped
from ...processing_clara import Passages

logger = logging.getLogger(__name__)
MAX_DOCUMENTS, MAX_CHARACTERS, MAX_QUESTION = 500, 400_000, 1000
PASTED = "pasted text"
STEP = 8
CHIPS, FIRST_CHIP = 4, 10


def pasted_documents(text: str) -> list[dict]:
    """The document of a text field, read as Markdown; none if the field is empty."""
    return [{"id": PASTED, **markdown_document(text)}] if text.strip() else []


def uploaded_documents(paths: Sequence[str]) -> tuple[list[dict], list[str]]:
    """Documents of uploaded files, and what was left out and why, a line each.

    Files are read as everywhere: one is one document, but for files of rows (.jsonl, .parquet, …).

    Raises:
        ValueError: If a file of rows is malformed; names file and line.
    """
    skipped, files = Skipped(quiet=True), []
    for path in map(Path, paths):
        if path.suffix.lower() in SUFFIXES:
            files.append((path, path.name))
        else:
            skipped.add(path, f"has the suffix {path.suffix!r}, which is not readable")
    try:
        found = list(read_files(files, skipped))
    except ValueError as error:
        raise ValueError(_without_folders(str(error), paths)) from error
    return found, [_without_folders(f"{place} {reason}", paths) for place, reason in skipped]


def _without_folders(text: str, paths: Sequence[str]) -> str:
    """A message without the folders of uploads, which say nothing to the visitor."""
    for folder in {os.path.dirname(path) for path in paths}:
        text = text.replace(f"{folder}{os.sep}", "")
    return text


def checked(documents: Sequence[dict], skipped: Sequence[str] = ()) -> list[dict]:
    """The documents with ids that differ; a ValueError if there is none, or too many or too long ones."""
    if not documents and skipped:
        raise ValueError(f"Nothing could be read: {'; '.join(skipped)}.")
    if not documents:
        raise ValueError("There is no document yet: drop a file, paste some text or take the sample.")
    if len(documents) > MAX_DOCUMENTS:
        raise ValueError(f"{len(documents):,} documents are too many for this page: {MAX_DOCUMENTS} at most.")
    length = sum(len(document["text"]) for document in documents)
    if length > MAX_CHARACTERS:
        raise ValueError(f"{length:,} characters are too many for this page: {MAX_CHARACTERS:,} at most.")
    taken: set[str] = set()
    for document in documents:
        name, number = document["id"], 2
        while document["id"] in taken:
            document["id"], number = f"{name} ({number})", number + 1
        taken.add(document["id"])
    return list(documents)


def compress_steps(model: Any, documents: Sequence[dict], step: int = STEP) -> Iterator[tuple[int, int, Any]]:
    """Compresses documents a few passages at a time, each document as a whole.

    Yields:
        Passages done, passages in all, and the corpus memory so far (None at first).
    """
    passages = model.split_passages(documents)
    total, memory = len(passages.texts), None
    yield 0, total, None
    ends = [row for row in range(1, total) if passages.parents[row] != passages.parents[row - 1]] + [total]
    start = 0
    for end in ends:  # a document is remembered as a whole
        if end - start < step and end < total:
            continue
        part = model.compress_passages(Passages(*(column[start:end] for column in vars(passages).values())))
        if memory is None:
            memory = part
        else:
            memory.append(part)
        start = end
        yield len(memory), total, memory


def sample_memory(
    model: Any, cache: str | os.PathLike | None = None, made: str | os.PathLike | None = None
) -> Any:
    """The memory of the sample corpus: compressed once for each compressor, then kept in the cache.

    `cache` is CLARA_CACHE or the user's cache by default. What lies in `made`, which came with the page, is
    taken if this compressor made it.
    """
    folder = Path(cache or cache_folder(), f"sample-{model.memory_fingerprint()[:16]}")
    for place in filter(None, (made, folder)):
        try:
            return model.load_memory(str(place))
        except (FileNotFoundError, ValueError) as error:  # not there yet, cut short, or another compressor's
            logger.info("the sample is not taken from %s: %s", place, error)
    memory = model.build_memory(sample_documents(), show_progress=False)
    memory.save_pretrained(folder)
    return memory


def sample_chips() -> list[str]:
    """A few evenly spaced questions of the sample corpus, to be asked with one click.

    They begin where the shipped model answers three of four: these are to show what it can do.
    """
    questions = sample_questions()
    return [questions[FIRST_CHIP + row * len(questions) // CHIPS]["question"] for row in range(CHIPS)]


def count_tokens(model: Any, texts: Sequence[str]) -> int:
    """Tokens of passages as the compressor reads them."""
    return int(model.processor.encode_documents(list(texts))["attention_mask"].sum())


def streamed(model: Any, run: Callable[[Any], Any], timeout: float = 300.0) -> Iterator[str]:
    """The text that `run` writes, in a thread of its own, into the streamer it is given, longer each time.

    What `run` raised is raised; a TimeoutError after so many seconds of silence.
    """
    streamer = TextIteratorStreamer(model.processor.tokenizer, skip_special_tokens=True, timeout=timeout)
    failed: list[Exception] = []

    def work() -> None:
        try:
            run(streamer)
        except Exception as error:  # told to the reader of the stream, below
            failed.append(error)
            streamer.end()

    threading.Thread(target=work, daemon=True).start()
    text = ""
    try:
        for piece in streamer:
            text += piece
            yield text.strip()
    except queue.Empty as error:
        raise TimeoutError("The answer took too long.") from error
    if failed:
        raise failed[0]


@torch.no_grad()
def logit_lens(model: Any, question: str, top: int = 8) -> list[list[tuple[str, float]]]:
    """The likeliest tokens at each of a question's M memory vectors by the base's own head (paper figure 4).

    Returns:
        For each vector `top` tokens as texts, with their probabilities.

    Raises:
        ValueError: If the question is empty or too long.
    """
    batch = model.processor.encode_questions([question]).to(model.device)
    head = model.decoder.get_output_embeddings()
    with model.lock, evaluating(model):
        rows = model.reason(**batch).rows()
        found = head(rows.to(head.weight)).float().softmax(dim=-1).topk(top, dim=-1)
    tokenizer = model.processor.tokenizer
    return [
        [(tokenizer.decode([token]), share) for token, share in zip(ids, row, strict=True)]
        for ids, row in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]
