"""The sample corpus that ships with the repository: its files and rows. It is frozen and never trained on."""

import json
from pathlib import Path
from typing import Any

from .records import CorpusRecord

FOLDER = Path(__file__).resolve().parent / "samples"
CORPUS, QUESTIONS = FOLDER / "corpus.jsonl", FOLDER / "questions.jsonl"


def sample_documents() -> list[dict[str, Any]]:
    """The passages in the order of the file: `id`, `title`, `text`."""
    return _rows(CORPUS)


def sample_questions() -> list[dict[str, Any]]:
    """The questions in the order of the file: `question`, `answers`, `positives` (indices of passages)."""
    return _rows(QUESTIONS)


def sample_texts() -> list[str]:
    """The passages as the compressor reads them, titles included."""
    return [CorpusRecord(**row).document for row in sample_documents()]


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
