"""Cuts a long text into passages that each fit the encoder, at white space where it can."""

from transformers import PreTrainedTokenizerBase

from .tokens_clara import plain_ids


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
