"""What one visit to the demonstration page does: reading documents, compressing, streaming answers.

Nothing here knows of the page.
"""

import json
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from transformers import TextIteratorStreamer

SUFFIXES = (".txt", ".md", ".jsonl")
MAX_DOCUMENTS, MAX_CHARACTERS, MAX_QUESTION = 500, 400_000, 1000
BLANK_LINE = re.compile(r"\n[ \t]*\n+")
HEADING = re.compile(r"\A\s*#\s+(.+?)[ \t]*(?:\n|\Z)")
STEP = 8


def pasted_documents(text: str) -> list[dict]:
    """Documents of a text field: an empty line stands between two."""
    parts = [part.strip() for part in BLANK_LINE.split(text.replace("\r\n", "\n")) if part.strip()]
    return [{"id": f"text {number}", "text": part} for number, part in enumerate(parts, 1)]


def uploaded_documents(paths: Sequence[str]) -> list[dict]:
    """Documents of uploaded files: a .txt or .md file is one, a .jsonl file has one in each line.

    Raises:
        ValueError: If a file has another suffix, is not UTF-8, or a line is malformed; names file and line.
    """
    found: list[dict] = []
    for path in paths:
        name = os.path.basename(path)
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in SUFFIXES:
            raise ValueError(f"{name}: only {', '.join(SUFFIXES)} files can be read.")
        try:
            with open(path, encoding="utf-8-sig") as file:
                text = file.read(4 * MAX_CHARACTERS + 1)
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: this is not UTF-8 text.") from error
        found.extend(_rows(name, text) if suffix == ".jsonl" else _text(name, text, suffix == ".md"))
    return found


def _text(name: str, text: str, markdown: bool) -> list[dict]:
    if not text.strip():
        raise ValueError(f"{name}: the file is empty.")
    heading = HEADING.match(text) if markdown else None
    if heading is None or not text[heading.end() :].strip():
        return [{"id": name, "text": text}]
    return [{"id": name, "title": heading[1], "text": text[heading.end() :].strip()}]


def _rows(name: str, text: str) -> list[dict]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}, line {number}: this is not JSON.") from error
        row = {"text": row} if isinstance(row, str) else row
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
            raise ValueError(f'{name}, line {number}: a row needs a "text" that is not empty.')
        kept = {"id": str(row.get("id") or f"{name}:{number}"), "text": row["text"]}
        title = row.get("title")
        rows.append({**kept, "title": title} if isinstance(title, str) and title else kept)
    return rows


def checked(documents: Sequence[dict]) -> list[dict]:
    """The documents with ids that differ, if there are some and not too many.

    Raises:
        ValueError: If there is none, there are too many, or they are too long together.
    """
    if not documents:
        raise ValueError("There is no document yet: paste some text, choose a file or take the sample.")
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
        part = model.compress_passages(passages[start:end])
        if memory is None:
            memory = part
        else:
            memory.append(part)
        start = end
        yield len(memory), total, memory


def count_tokens(model: Any, texts: Sequence[str]) -> int:
    """Tokens of passages as the compressor reads them."""
    return int(model.processor.encode_documents(list(texts))["attention_mask"].sum())


def streamed(model: Any, run: Callable[[Any], Any], timeout: float = 300.0) -> Iterator[str]:
    """The text that `run` writes into the streamer it is given, longer each time.

    Args:
        model: Whose tokenizer reads the tokens.
        run: Generates, in a thread of its own.
        timeout: Seconds to wait for the next piece.

    Raises:
        Exception: What `run` raised; `TimeoutError` after silence.
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
