"""Measures on short texts that the quality gates share: words, numbers, names, overlaps."""

import re
import unicodedata
from collections.abc import Sequence

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE_START = re.compile(r"(?:^|[.!?:;\n\"“(])\s*$")
_SMALL = frozenset(
    word
    for line in (
        "a an the of in on at to for by with from and or but as is are was were be been being it its",
        "this that these those he she they his her their him them who whom whose which what when where why",
        "how did do does had has have not no there then than so into over after before about between",
        "during also",
    )
    for word in line.split()
)
_COUNTED = (
    "zero one two three four five six seven eight nine ten",
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty",
)
NUMBER_WORDS = {word: str(number) for number, word in enumerate(" ".join(_COUNTED).split())}


def words(text: str) -> list[str]:
    """Returns the words of a text, compatibility-normalised and lower-cased."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def normalized(text: str) -> str:
    """Returns the text as its words alone, for comparing."""
    return " ".join(words(text))


def contains_run(whole: Sequence[str], part: Sequence[str]) -> bool:
    """Whether the words of `part` stand in `whole` as one run."""
    return f" {' '.join(part)} " in f" {' '.join(whole)} "


def holds_answer(text: str, answers: Sequence[str], shortest: int = 4) -> bool:
    """Whether a text contains one of the answers as whole words; answers below 4 characters do not count."""
    found = words(text)
    wanted = (words(answer) for answer in answers if len(normalized(answer)) >= shortest)
    return any(contains_run(found, answer) for answer in wanted)


def content_words(text: str) -> list[str]:
    """Returns the words that carry meaning: all but articles, prepositions, pronouns and the like."""
    return [word for word in words(text) if word not in _SMALL]


def numbers(text: str) -> set[str]:
    """Returns the numbers of a text without grouping marks; number words up to twenty count."""
    text = unicodedata.normalize("NFKC", text)
    digits = {number.replace(",", "").rstrip(".").lstrip("0") or "0" for number in _NUMBER.findall(text)}
    return digits | {NUMBER_WORDS[word] for word in words(text) if word in NUMBER_WORDS}


def names(text: str) -> set[str]:
    """Returns words with a capital that does not come from the start of a sentence, lower-cased."""
    found = set()
    for match in _WORD.finditer(text):
        word = match.group()
        inside = not _SENTENCE_START.search(text[max(0, match.start() - 5) : match.start()])
        if inside and word[0].isupper() and word.casefold() not in _SMALL and word != "I":
            found.add(re.sub(r"['’]s$", "", word.casefold()))
    return found


def shingles(tokens: Sequence[str], length: int) -> set[tuple[str, ...]]:
    """Returns all runs of `length` tokens; one shorter run if there are fewer tokens."""
    if len(tokens) <= length:
        return {tuple(tokens)} if tokens else set()
    return {tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)}


def jaccard(left: set, right: set) -> float:
    """Returns the share of common elements, 0 to 1."""
    union = len(left | right)
    return len(left & right) / union if union else 0.0


def share_inside(part: Sequence | set, whole: set) -> float:
    """Returns the share of `part` that is in `whole`; 1 if there is nothing to look for."""
    return sum(item in whole for item in part) / len(part) if part else 1.0
