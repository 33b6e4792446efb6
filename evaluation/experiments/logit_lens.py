"""Which words a question's memory decodes to (paper figure 4, made quantitative).

Each of the M memory vectors of a question goes through the base's own output head; the words of its 50
likeliest tokens are collected. Counted is how many words of four texts are among them: the question, its
gold answer, its positive documents without the question's words, and, as a control, another question's
positive documents treated alike.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clara.data.records import QuestionRecord
from clara.modeling_clara import ClaraForRetrievalGeneration

from ..lens import logit_lens
from ..metrics import normalize_answer
from ..sample_rows import question_rows
from ..statistics import bootstrap_interval
from ..tables import markdown_table

NEEDS_MODEL = True
TEXTS = ("question", "answer", "documents", "other_documents")
STOP_WORDS = frozenset(
    [
        "about",
        "after",
        "also",
        "and",
        "are",
        "been",
        "but",
        "by",
        "did",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "he",
        "her",
        "him",
        "his",
        "how",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "made",
        "many",
        "more",
        "most",
        "much",
        "not",
        "of",
        "on",
        "one",
        "or",
        "other",
        "over",
        "she",
        "so",
        "some",
        "than",
        "that",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "two",
        "was",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "whom",
        "whose",
        "why",
        "will",
        "with",
        "would",
    ]  # noqa: SIM905
)
SHOWN_WORDS, SHOWN_QUESTIONS = 15, 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    parser.add_argument("--file", help="question rows with positives (default: sample corpus)")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="questions (default: 100)")
    parser.add_argument("--top", type=int, default=50, help="tokens of each memory vector (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals")


def measure(arguments: argparse.Namespace, model: ClaraForRetrievalGeneration) -> dict[str, Any]:
    """Shares of words found, and the words of the first questions, as JSON values.

    Raises:
        ValueError: fewer than two questions of the file name positives.
    """
    records, source = question_rows(None if arguments.file is None else [arguments.file])
    records = [record for record in records if record.positives][: arguments.limit]
    if len(records) < 2:
        raise ValueError(f"`file` {source} has {len(records)} questions with positives: two are needed.")
    decoded = [decode(model, record.question, arguments.top) for record in records]
    shares: dict[str, list[float]] = {name: [] for name in TEXTS}
    for row, record in enumerate(records):
        found = {word for words in decoded[row] for word in words}
        for name, wanted in wanted_words(record, records[row - 1]).items():
            if wanted:
                shares[name].append(len(wanted & found) / len(wanted))
    return {
        "questions": len(records),
        "file": source,
        "top": arguments.top,
        "seed": arguments.seed,
        "shares": {
            name: {**vars(bootstrap_interval(values, seed=arguments.seed)), "questions": len(values)}
            for name, values in shares.items()
            if values
        },
        "examples": [
            {"question": record.question, "answer": record.answers[0], "words": words}
            for record, words in list(zip(records, decoded, strict=True))[:SHOWN_QUESTIONS]
        ],
    }


def decode(model: ClaraForRetrievalGeneration, question: str, top: int) -> list[list[str]]:
    """For each of a question's M memory vectors the distinct words of its likeliest tokens, best first."""
    return [words_of([token for token, _ in row]) for row in logit_lens(model, question, top)]


def words_of(pieces: Sequence[str]) -> list[str]:
    """Distinct normalised words of at least three letters that are no stop words, in order."""
    words = (normalize_answer(piece) for piece in pieces)
    return list(dict.fromkeys(word for word in words if _counts(word)))


def wanted_words(record: QuestionRecord, other: QuestionRecord) -> dict[str, set[str]]:
    """The words looked for, by text; see the module."""
    question, answer = _words(record.question), _words(record.answers[0])
    return {
        "question": question,
        "answer": answer - question,
        "documents": _positive_words(record) - question,
        "other_documents": _positive_words(other) - question - _positive_words(record),
    }


def render(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    rows = [
        [name.replace("_", " "), f"{100 * s['mean']:.1f} [{100 * s['low']:.1f}, {100 * s['high']:.1f}]"]
        + [str(s["questions"])]
        for name, s in result["shares"].items()
    ]
    table = markdown_table(["words of", "found (%)", "questions"], rows)
    note = (
        f"{result['questions']} questions of {result['file']}, the {result['top']} likeliest tokens of each "
        f"memory vector, 95 % bootstrap intervals, seed {result['seed']}. Answer and documents without the "
        "question's words."
    )
    examples = [
        [example["question"], example["answer"], ", ".join(_first_words(example["words"]))]
        for example in result["examples"]
    ]
    words = markdown_table(["question", "answer", "words"], examples)
    return f"# Logit lens of query memories\n\n{note}\n\n{table}\n\n{words}\n"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Shares found, one bar with its interval for each text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    shares = result["shares"]
    means = [100 * s["mean"] for s in shares.values()]
    bars = [
        [100 * (s["mean"] - s["low"]) for s in shares.values()],
        [100 * (s["high"] - s["mean"]) for s in shares.values()],
    ]
    axes.bar([name.replace("_", " ") for name in shares], means, yerr=bars, capsize=4, color="C0")
    axes.set(ylabel="words found in the query memory (%)")
    figure.savefig(path, dpi=150)


def _first_words(slots: Sequence[Sequence[str]]) -> list[str]:
    """The best words over all memory vectors, those of rank 1 first."""
    longest = max(map(len, slots))
    ranked = (words[rank] for rank in range(longest) for words in slots if rank < len(words))
    return list(dict.fromkeys(ranked))[:SHOWN_WORDS]


def _positive_words(record: QuestionRecord) -> set[str]:
    return set().union(*(_words(record.documents[index]) for index in record.positives))


def _words(text: str) -> set[str]:
    return {word for word in normalize_answer(text).split() if _counts(word)}


def _counts(word: str) -> bool:
    return len(word) >= 3 and word.isalnum() and word not in STOP_WORDS
