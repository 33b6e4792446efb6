"""Answer metrics: one prediction against its list of gold answers, as a number between 0 and 1.

Two conventions of "cover exact match" are in use and must not be mixed; they have two names here:

* `cover_exact_match`: the tokens of *some* gold answer stand side by side in the prediction.
* `cover_bag_of_tokens`: every token of the *first* gold answer stands somewhere in the prediction, in any
  order (what the CLaRa paper reports as CEM or accuracy).
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
CLOSED_ANSWERS = frozenset({"yes", "no", "noanswer"})
TRUTH_WORDS = {"true": "yes", "false": "no"}


def normalize_answer(text: str) -> str:
    """Lower-cases, drops ASCII punctuation and English articles, and collapses white space (SQuAD v1.1)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def check_answers(answers: Sequence[str]) -> list[str]:
    """Returns the normalised gold answers.

    Raises:
        TypeError: `answers` is one string, or holds something else than strings.
        ValueError: `answers` is empty, or one of them has nothing left after normalisation (it would match
            every prediction).
    """
    if isinstance(answers, str) or not all(isinstance(answer, str) for answer in answers):
        raise TypeError(
            f"`answers` must be a list of strings, got {answers!r}. Wrap a single answer in a list."
        )
    if not answers:
        raise ValueError(
            "`answers` is empty: a question needs at least one gold answer. Leave the question out."
        )
    normalized = [normalize_answer(answer) for answer in answers]
    if "" in normalized:
        answer = answers[normalized.index("")]
        raise ValueError(
            f"`answers` holds {answer!r}, of which normalisation leaves nothing. Remove that answer."
        )
    return normalized


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the normalised prediction equals a normalised gold answer, else 0 (SQuAD v1.1)."""
    return float(normalize_answer(prediction) in check_answers(answers))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Harmonic mean of token precision and recall, the best over the gold answers.

    F1 = 2·overlap / (prediction tokens + gold tokens), the overlap counted with multiplicity (SQuAD v1.1).
    Where the prediction or the gold answer is exactly yes, no or noanswer and they differ, F1 is 0
    (HotpotQA).
    """
    predicted = normalize_answer(prediction)
    return max(_f1(predicted, gold) for gold in check_answers(answers))


def cover_exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the tokens of some gold answer stand side by side and in order in the prediction, else 0."""
    predicted = f" {normalize_answer(prediction)} "
    return float(any(f" {gold} " in predicted for gold in check_answers(answers)))


def cover_bag_of_tokens(prediction: str, answers: Sequence[str]) -> float:
    """1 if every token of the first gold answer is somewhere in the prediction, in any order, else 0.

    The convention behind the CEM numbers of arXiv 2511.18659: the other gold answers are not looked at, and
    `true`/`false` count as `yes`/`no`. It is more lenient than `cover_exact_match` on word order
    ("york, a new place" covers "New York") and stricter on aliases.
    """
    first = check_answers(answers)[0]
    return float(_truth_tokens(first) <= _truth_tokens(normalize_answer(prediction)))


ANSWER_METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "cover_exact_match": cover_exact_match,
    "cover_bag_of_tokens": cover_bag_of_tokens,
}


def score_answers(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """Every answer metric for B predictions: one value per question, not averaged.

    Args:
        predictions: B generated answers.
        answers: B lists of gold answers.

    Returns:
        Metric name -> B values between 0 and 1.

    Raises:
        ValueError: the two lists differ in length, or a gold list is empty.
    """
    if len(predictions) != len(answers):
        raise ValueError(f"`predictions` has {len(predictions)} items but `answers` has {len(answers)}.")
    pairs = list(zip(predictions, answers, strict=True))
    return {name: [metric(*pair) for pair in pairs] for name, metric in ANSWER_METRICS.items()}


def _f1(predicted: str, gold: str) -> float:
    if predicted != gold and (predicted in CLOSED_ANSWERS or gold in CLOSED_ANSWERS):
        return 0.0
    predicted_tokens, gold_tokens = predicted.split(), gold.split()
    overlap = (Counter(predicted_tokens) & Counter(gold_tokens)).total()
    return 2 * overlap / (len(predicted_tokens) + len(gold_tokens))


def _truth_tokens(normalized: str) -> set[str]:
    return {TRUTH_WORDS.get(token, token) for token in normalized.split()}
