"""Cuts a text into passages that each fit the encoder, between sentences where it can, and into sentences."""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from .tokens_clara import plain_ids, plain_offsets

SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s*(?=\S)|\n+")
FEWEST_CHARACTERS, MOST_CHARACTERS = 20, 200
PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
NO_END = "".join(
    rf"(?<!\b{word})" for word in ("[A-Z]", "Dr", "Mr", "Mrs", "Ms", "St", "No", "vs", "e\\.g", "i\\.e")
)
ITEM = r"\n(?=[ \t]*(?:[-*+•#]|\d+[.)])\s)"  # the next line is an item of a list, or a heading
SENTENCE = re.compile(rf"{NO_END}[.!?…][\"'”’»)\]]*\s+(?=[^a-z\s])|[。！？]\s*|{ITEM}")
LINE, SPACE = re.compile(r"\n"), re.compile(r"\s+")
CUTS = ((PARAGRAPH, 2), (SENTENCE, 2), (PARAGRAPH, 8), (SENTENCE, 8), (LINE, 2), (SPACE, 2))  # best first
# What stays whole where it fits into a passage: fenced code and tables.
BLOCK = re.compile(
    r"^ {0,3}(`{3,}|~{3,})[^\n]*\n.*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)|(?:^[ \t]*\|[^\n]*(?:\n|\Z)){2,}",
    re.MULTILINE | re.DOTALL,
)


def split_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int, headers: Sequence[str] | None = None
) -> list[list[str]]:
    """Cuts texts into passages, at paragraphs, else sentences, else white space where it can.

    Fenced code and tables stay whole where they fit.

    Args:
        tokenizer: The base's tokenizer.
        texts: N texts.
        limit: Most tokens of a passage, its header included.
        headers: One for each text, which stands on a line of its own before each of its passages; one that
            takes more than half of a passage stands before the first alone.

    Returns:
        For each text its passages; without headers they hold every character but the white space at the cuts.
    """
    headers = [""] * len(texts) if headers is None else headers
    whole = [f"{header}\n{text}" if header else text for header, text in zip(headers, texts, strict=True)]
    passages = []
    for header, text, joined, offsets in zip(
        headers, texts, whole, plain_offsets(tokenizer, whole), strict=True
    ):
        if len(offsets) <= limit:
            passages.append([joined])
            continue
        prefix = f"{header}\n" if header else ""
        taken = len(plain_ids(tokenizer, [prefix])[0]) if header else 0
        if 2 * taken > limit:
            passages.append(split_text(tokenizer, joined, offsets, limit))
        else:
            inner = plain_offsets(tokenizer, [text])[0] if header else offsets
            passages.append(split_text(tokenizer, text, inner, limit, prefix))
    return passages


def split_text(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    offsets: list[tuple[int, int]],
    limit: int,
    prefix: str = "",
) -> list[str]:
    """Greedy windows over one long text's tokens; a window shrinks until it fits when encoded alone.

    Args:
        tokenizer: The base's tokenizer.
        text: The text.
        offsets: First and last character of each of its tokens (`plain_offsets`).
        limit: Most tokens of a passage.
        prefix: What stands before each passage and counts.

    Returns:
        The passages; joined they hold every character but the white space at the cuts.
    """
    passages, start = [], 0
    ends = [end for _, end in offsets]
    blocks = [match.span() for match in BLOCK.finditer(text)]
    room = max(1, limit - len(plain_ids(tokenizer, [prefix])[0])) if prefix else limit
    token = 0
    while start < len(text):
        size = room
        while True:
            last = min(token + size, len(ends))
            end = (
                len(text) if last == len(ends) else _cut(text, start, max(ends[last - 1], start + 1), blocks)
            )
            if size == 1 or len(plain_ids(tokenizer, [prefix + text[start:end].strip()])[0]) <= limit:
                break
            size = max(1, size * 9 // 10)
        if text[start:end].strip():
            passages.append(prefix + text[start:end].strip())
        start = end
        while token < len(ends) and ends[token] <= start:
            token += 1
    return passages


def _cut(text: str, start: int, end: int, blocks: Sequence[tuple[int, int]]) -> int:
    """The best place of text[start:end] to cut at: the last of the best kind that leaves enough before it."""
    block = next((span for span in blocks if span[0] < end < span[1]), None)
    if block is not None and block[0] > start + (end - start) // 8:
        return block[0]
    if block is not None:
        return _last(LINE, text, start, end, 2, ()) or _last(SPACE, text, start, end, 2, ()) or end
    for pattern, share in CUTS:
        found = _last(pattern, text, start, end, share, blocks)
        if found:
            return found
    return end


def _last(
    pattern: re.Pattern[str], text: str, start: int, end: int, share: int, blocks: Sequence[tuple[int, int]]
) -> int:
    """The end of the last match outside of blocks, behind the first 1 / share of text[start:end]; else 0."""
    least = start + (end - start) // share
    found = [match.end() for match in pattern.finditer(text, least, end)]
    whole = [place for place in found if not any(first < place < last for first, last in blocks)]
    return max((place for place in whole if least < place <= end), default=0)


def sentences(text: str) -> list[str]:
    """The sentences of a text, cut off after 200 characters; those below 20 are left out.

    A text without such a sentence is one itself.
    """
    parts = [part.strip()[:MOST_CHARACTERS] for part in SENTENCE_END.split(text)]
    return [part for part in parts if len(part) >= FEWEST_CHARACTERS] or [text.strip()[:MOST_CHARACTERS]]
