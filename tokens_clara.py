"""Text to token ids, safe for threads: how a fast tokenizer reads special tokens is a state of its own."""

import threading
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

_reading = threading.Lock()


def _read(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], plain: bool, **options: Any) -> Any:
    settings = {"add_special_tokens": False, "split_special_tokens": plain, "verbose": False}
    with _reading:
        return tokenizer(list(texts), **{**settings, **options})


def plain_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids of users' texts, in which nothing is special: a chat marker is read as its letters."""
    return _read(tokenizer, texts, plain=True)["input_ids"]


def template_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a piece of a rendered chat, whose markers are special."""
    return _read(tokenizer, [text], plain=False)["input_ids"][0]


def has_specials(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a special or added token is written in a text."""
    return any(token.content in text for token in tokenizer.added_tokens_decoder.values())


def following_ids(tokenizer: PreTrainedTokenizerBase, text: str, before: str = "") -> list[int]:
    """Ids of a piece of a rendered chat that stands behind the special tokens `before`, without these."""
    start = len(template_ids(tokenizer, before)) if before else 0
    return template_ids(tokenizer, before + text)[start:]


def framed_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], prefix: str | None, suffix: str
) -> list[list[int]]:
    """Ids of users' texts between special tokens.

    A text is read in its place, since some tokenizers read the first word of an input in another way; one in
    which special tokens are written is read apart, as letters.

    Args:
        tokenizer: The base's tokenizer.
        texts: N texts.
        prefix: Special tokens before each; None means the tokenizer's own opening.
        suffix: Special tokens after each.
    """
    opening = opening_ids(tokenizer) if prefix is None else template_ids(tokenizer, prefix)
    closing = template_ids(tokenizer, suffix)
    whole = bool(prefix or suffix)
    return [
        template_ids(tokenizer, (prefix or "") + text + suffix)
        if whole and not has_specials(tokenizer, text)
        else opening + row + closing
        for text, row in zip(texts, plain_ids(tokenizer, texts), strict=True)
    ]


def plain_offsets(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """First and last character of every token of `plain_ids`."""
    return _read(tokenizer, texts, plain=True, return_offsets_mapping=True)["offset_mapping"]


def opening_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-text token if this tokenizer starts its texts with one, else nothing."""
    bos = tokenizer.bos_token_id
    ids = _read(tokenizer, ["a"], plain=False, add_special_tokens=True)["input_ids"][0]
    return [bos] if bos is not None and ids[:1] == [bos] else []
