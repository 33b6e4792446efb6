"""What a rewritten text keeps of its source: ROUGE-L, and the shares of numbers, dates and names still in it.

The finders are rules for English prose and need no model, so they give the same result everywhere. A name
is a run of capitalised words: lower-cased text has none, so compare only texts in ordinary case.
"""

import re
from collections.abc import Sequence

from .metrics import cover_exact_match, normalize_answer

Date = tuple[int | None, int | None, int | None]

WORD = re.compile(r"\w+")
MONTHS = WORD.findall("January February March April May June July August September October November December")
NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?")
DATE_FORMS = tuple(
    re.compile(pattern.format(month="|".join(MONTHS), th="(?:st|nd|rd|th)?"))
    for pattern in (
        r"\b(?P<day>\d{{1,2}}){th} (?:of )?(?P<month>{month})(?:,? (?P<year>\d{{4}}))?\b",
        r"\b(?P<month>{month}) (?P<day>\d{{1,2}}){th}\b(?:,? (?P<year>\d{{4}})\b)?",
        r"\b(?P<month>{month}),? (?P<year>\d{{4}})\b",
        r"\b(?P<year>1\d{{3}}|20\d{{2}})-(?P<month>\d{{2}})-(?P<day>\d{{2}})\b",
        r"(?<![\w.,])(?P<year>1\d{{3}}|20\d{{2}})(?![\w,]\d|\w)",
    )
)
NAME = re.compile(r"[A-ZÀ-ÖØ-Þ][\w'’-]*(?: (?:(?:of|the|de|van|von) ){0,2}[A-ZÀ-ÖØ-Þ][\w'’-]*)*")
SENTENCE_START = re.compile(r"(?:^|[.!?:]\s+|\n\s*)[\"'“‘(]*$")
OPENERS = frozenset(
    WORD.findall(
        "A After All Although An And As At Before Both But By During For From He Her His However If In It "
        "Its On One She Since That The Their There These They This Those Though To Under Until When Where "
        "While With"
    )
)


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F1 of lower-cased words: 2·LCS / (words of the text + words of the reference) (Lin 2004).

    LCS is the length of the longest common subsequence. No stemming. 0 if either has no words.
    """
    words, reference_words = WORD.findall(text.lower()), WORD.findall(reference.lower())
    if not words or not reference_words:
        return 0.0
    return 2 * _common_subsequence(words, reference_words) / (len(words) + len(reference_words))


def find_numbers(text: str) -> set[str]:
    """Numbers in digits outside dates, without separators or closing zeros: "1,925.50" is "1925.5"."""
    for form in DATE_FORMS:
        text = form.sub("#", text)
    numbers = (number.replace(",", "") for number in NUMBER.findall(text))
    return {number.rstrip("0").rstrip(".") if "." in number else number for number in numbers}


def find_dates(text: str) -> set[Date]:
    """Dates as (year, month, day), None for what is not said: "June 5th, 2004" is (2004, 6, 5).

    Four digits from 1000 to 2099 that stand alone are taken for a year.
    """
    dates = set()
    for form in DATE_FORMS:
        dates |= {_date(match.groupdict()) for match in form.finditer(text)}
        text = form.sub("#", text)
    return dates


def find_names(text: str) -> set[str]:
    """Names in normalised form: runs of capitalised words, months and sentence openers left out.

    One capitalised word at the start of a sentence is no evidence for a name and is not counted.
    """
    return {normalize_answer(name) for match in NAME.finditer(text) if (name := _name(text, match))}


def kept_shares(text: str, source: str) -> dict[str, float | None]:
    """Shares of the source's numbers, dates and names that the rewritten text still has.

    A number or date must be found again with the same value, whatever its form; a name with the same words
    in the same order.

    Returns:
        `numbers`, `dates`, `names` -> share between 0 and 1, or None where the source has none to keep.
    """
    numbers, dates = find_numbers(text), find_dates(text)
    return {
        "numbers": _share([number in numbers for number in find_numbers(source)]),
        "dates": _share([date in dates for date in find_dates(source)]),
        "names": _share([bool(cover_exact_match(text, [name])) for name in find_names(source)]),
    }


def answer_kind(answer: str) -> str:
    """Which kind of fact a gold answer is: `date`, `number`, `name` (some word is capitalised) or `other`."""
    if find_dates(answer) or any(month in answer.split() for month in MONTHS):
        return "date"
    if find_numbers(answer):
        return "number"
    return "name" if any(word[0].isupper() for word in answer.split()) else "other"


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            above = lengths[column]
            lengths[column] = diagonal + 1 if word == other else max(above, lengths[column - 1])
            diagonal = above
    return lengths[-1]


def _date(parts: dict[str, str | None]) -> Date:
    month = parts.get("month")
    number = None if month is None else int(month) if month.isdigit() else MONTHS.index(month) + 1
    year, day = (int(value) if (value := parts.get(key)) else None for key in ("year", "day"))
    return year, number, day


def _name(text: str, match: re.Match[str]) -> str:
    words = match.group().split()
    at_start = SENTENCE_START.search(text, 0, match.start()) is not None
    if words[0] in OPENERS:
        words, at_start = words[1:], False
    if (at_start and len(words) == 1) or (words and words[-1] in MONTHS):
        return ""
    return " ".join(words)


def _share(kept: Sequence[bool]) -> float | None:
    return sum(kept) / len(kept) if kept else None
