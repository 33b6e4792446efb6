"""Documents cut into passages that fit the compressor: whole sentences, with title, named by document."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...processing_clara import clean_text
from ..documents import read_documents

_SENTENCE = re.compile(r".*?(?:[.!?。！？]+[\"'”’)\]]*(?=\s)|\n\s*\n|\Z)", re.DOTALL)
LONGEST_WORD = 200


def read_passages(documents: Iterable[Mapping[str, Any]], max_words: int = 150) -> Iterator[tuple[str, str]]:
    """Cuts documents into passages of whole sentences.

    Args:
        documents: mappings with `text` and, optionally, `id` and `title`.
        max_words: the most words of a passage. 150 English words are about 200 tokens, which leaves room in
            the compressor's 256.

    Returns:
        An iterator of (id, text). A document of one passage keeps its id, the parts of a longer one are
        called `{id}#0`, `{id}#1`, …; a title stands before each text.

    Raises:
        ValueError: if `max_words` is not positive.
    """
    if max_words < 1:
        raise ValueError(f"`max_words` must be at least 1, got {max_words}.")
    return (passage for index, row in enumerate(documents) for passage in _passages(index, row, max_words))


def read_texts(paths: Sequence[str | Path], max_words: int) -> list[str]:
    """Returns the passages of files and folders, each text once."""
    return list(dict.fromkeys(text for _, text in read_passages(read_documents(paths), max_words)))


def _passages(index: int, row: Mapping[str, Any], max_words: int) -> Iterator[tuple[str, str]]:
    name = str(index) if row.get("id") is None else str(row["id"])
    title = clean_text(str(row.get("title") or "")).strip()
    parts = list(split_text(clean_text(str(row.get("text") or "")), max_words))
    for order, part in enumerate(parts):
        text = f"{title}\n{part}" if title else part
        yield (name if len(parts) < 2 else f"{name}#{order}"), text


def split_text(text: str, max_words: int) -> Iterator[str]:
    """Packs whole sentences into passages of at most `max_words` words; a longer one is cut between words."""
    passage: list[str] = []
    count = 0
    for sentence, length in _pieces(text, max_words):
        if count and count + length > max_words:
            yield " ".join(passage)
            passage, count = [], 0
        passage.append(sentence)
        count += length
    if passage:
        yield " ".join(passage)


def _pieces(text: str, max_words: int) -> Iterator[tuple[str, int]]:
    """Yields sentences with their numbers of words, none longer than `max_words`."""
    for match in _SENTENCE.finditer(text):
        found = [
            word[i : i + LONGEST_WORD]  # only text that is no language has longer words
            for word in match.group().split()
            for i in range(0, len(word), LONGEST_WORD)
        ]
        for start in range(0, len(found), max_words):
            piece = found[start : start + max_words]
            yield " ".join(piece), len(piece)
