"""What an answer owes to the passages it was read from, by their words; the model itself does not say."""

import re
from collections.abc import Sequence

SENTENCE = re.compile(r"\S.*?(?:[.!?](?=\s)|(?=\n)|\Z)", re.DOTALL)
WORD = re.compile(r"\w+")
ENOUGH = 0.6


def likely_span(text: str, question: str, answer: str = "") -> tuple[int, int]:
    """Start and end of the sentence of a passage that shares most words with the answer and the question.

    A word of the answer counts twice, and a word counts less, the more sentences have it.
    """
    spans = [match.span() for match in SENTENCE.finditer(text)] or [(0, len(text))]
    sentences = [_words(text[start:end]) for start, end in spans]
    asked, answered = _words(question), _words(answer)

    def weight(word: str) -> float:
        shares = (word in asked) + 2 * (word in answered)
        return shares and shares / sum(word in sentence for sentence in sentences)

    scores = [sum(map(weight, sorted(sentence))) for sentence in sentences]
    return spans[scores.index(max(scores))]


def is_supported(answer: str, texts: Sequence[str]) -> bool:
    """Whether an answer has words and most of them stand in one of the passages that it was read from."""
    said = _words(answer)
    best = max((len(said & _words(text)) for text in texts), default=0)
    return bool(said) and best >= ENOUGH * len(said)


def _words(text: str) -> set[str]:
    return {word for word in WORD.findall(text.casefold()) if len(word) > 2 or word.isdigit()}
