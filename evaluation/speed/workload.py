"""The texts that are measured: the sample corpus, cut to the lengths that a benchmark asks for."""

from collections.abc import Sequence

from clara.data import sample_corpus
from clara.data.sample_corpus import sample_texts
from clara.prompts_clara import plain_offsets
from transformers import PreTrainedTokenizerBase


def cut(tokenizer: PreTrainedTokenizerBase, text: str, tokens: int) -> str:
    """The first words of a text that take at most so many tokens."""
    offsets = plain_offsets(tokenizer, [text])[0]
    while len(offsets) > tokens:
        text = text[: offsets[tokens - 1][1]].rsplit(" ", 1)[0]
        offsets = plain_offsets(tokenizer, [text])[0]
    return text


def sample_passages(tokenizer: PreTrainedTokenizerBase, count: int, tokens: tuple[int, int]) -> list[str]:
    """Passages of the sample corpus, each of `tokens[0]` to `tokens[1]` tokens, in the order of the file.

    Raises:
        ValueError: If there are fewer than `count`.
    """
    texts = [cut(tokenizer, text, tokens[1]) for text in sample_texts()]
    lengths = [len(offsets) for offsets in plain_offsets(tokenizer, texts)]
    kept = [text for text, length in zip(texts, lengths, strict=True) if tokens[0] <= length]
    return _first(kept, count, "passages")


def sample_documents(tokenizer: PreTrainedTokenizerBase, count: int, tokens: int) -> list[str]:
    """Documents of nearly `tokens` tokens: a passage of the sample corpus, continued by the next one.

    Raises:
        ValueError: If the corpus has fewer than `count` passages.
    """
    texts = sample_texts()
    following = texts[1:] + texts[:1]
    joined = [f"{text} {after}" for text, after in zip(texts, following, strict=True)]
    return [cut(tokenizer, text, tokens) for text in _first(joined, count, "documents")]


def sample_questions() -> list[tuple[str, str, tuple[int, ...]]]:
    """Question, main answer and the lines of the passages that hold it."""
    rows = sample_corpus.sample_questions()
    return [(row["question"], row["answers"][0], tuple(row["positives"])) for row in rows]


def _first(items: Sequence[str], count: int, name: str) -> list[str]:
    if len(items) < count:
        raise ValueError(f"`{name}` must be at most {len(items)} with the sample corpus, got {count}.")
    return list(items[:count])
