"""Cuts a text into passages that each fit the encoder, at white space where it can, and into sentences."""

import re

from transformers import PreTrainedTokenizerBase

from .tokens_clara import plain_ids

SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s*(?=\S)|\n+")
FEWEST_CHARACTERS, MOST_CHARACTERS = 20, 200


def split_text(
    tokenizer: PreTrainedTokenizerBase, text: str, offsets: list[tuple[int, int]], limit: int
) -> list[str]:
    """Greedy windows over one long text's tokens; a window shrinks until it fits when encoded alone.

    Args:
        tokenizer: The base's tokenizer.
        text: The text.
        offsets: First and last character of each of its tokens (`plain_offsets`).
        limit: Most tokens of a passage.

    Returns:
        The passages; joined they hold every character but the white space at the cuts.
    """
    passages, start = [], 0
    ends = [end for _, end in offsets]
    token = 0
    while start < len(text):
        size = limit
        while True:
            last = min(token + size, len(ends))
            end = len(text) if last == len(ends) else _cut(text, start, max(ends[last - 1], start + 1))
            if size == 1 or len(plain_ids(tokenizer, [text[start:end]])[0]) <= limit:
                break
            size = max(1, size * 9 // 10)
        if text[start:end].strip():
            passages.append(text[start:end].strip())
        start = end
        while token < len(ends) and ends[token] <= start:
            token += 1
    return passages


def _cut(text: str, start: int, end: int) -> int:
    """The last white space of text[start:end] in its second half, else `end`."""
    for position in range(end, start + (end - start) // 2, -1):
        if text[position - 1].isspace():
            return position
    return end


def sentences(text: str) -> list[str]:
    """The sentences of a text, cut off after 200 characters; those below 20 are left out.

    A text without such a sentence is one itself.
    """
    parts = [part.strip()[:MOST_CHARACTERS] for part in SENTENCE_END.split(text)]
    return [part for part in parts if len(part) >= FEWEST_CHARACTERS] or [text.strip()[:MOST_CHARACTERS]]
