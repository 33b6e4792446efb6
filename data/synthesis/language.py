"""Whether two texts are in one language."""

from __future__ import annotations

from functools import cache
from typing import Any

LEAST_WORDS = 12
LEAST_CONFIDENCE = 0.95


def same_language(left: str, right: str) -> bool:
    """Returns False only if both languages are recognised with confidence and differ."""
    first, second = language_of(left), language_of(right)
    return first is None or second is None or first == second


def language_of(text: str) -> str | None:
    """Returns the ISO 639-1 code of a text, or None if it is too short or not clear."""
    if len(text.split()) < LEAST_WORDS:
        return None
    code, confidence = _identifier().classify(text)
    return str(code) if confidence >= LEAST_CONFIDENCE else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
