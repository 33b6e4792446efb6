"""What every integration asks of a model: passages found, answers with their passages."""

from collections.abc import Sequence
from typing import Any


def find(model: Any, memory: Any, questions: Sequence[str], **options: Any) -> list[list[dict[str, Any]]]:
    """The passages nearest to each question, best first.

    Args:
        model: A `ClaraForRetrievalGeneration`.
        memory: A corpus memory or store of its compressor.
        questions: B questions.
        **options: Of `model.retrieve`: `retrieval_top_k`, `where`, `hybrid`, `exact`.

    Returns:
        For each question mappings with `id`, `text`, `score` (cosine), `document_id` and `metadata`.
    """
    found = model.retrieve(list(questions), memory, **options)
    return _passages(memory, found)


def answer(
    model: Any, memory: Any, questions: Sequence[str], **options: Any
) -> list[tuple[str, list[dict[str, Any]]]]:
    """The answer to each question, with the passages that it was read from as of `find`.

    Args:
        model: A `ClaraForRetrievalGeneration`.
        memory: A corpus memory or store of its compressor.
        questions: B questions.
        **options: Of `model.generate`.
    """
    out = model.generate(list(questions), memory, return_dict_in_generate=True, **options)
    return list(zip(out.answers, _passages(memory, out), strict=True))


def _passages(memory: Any, found: Any) -> list[list[dict[str, Any]]]:
    return [
        [_passage(memory[index], score) for index, score in zip(indices, scores, strict=False)]
        for indices, scores in zip(found.indices, found.scores.tolist(), strict=True)
    ]


def _passage(row: dict[str, Any], score: float) -> dict[str, Any]:
    kept = {name: row[name] for name in ("id", "text", "metadata")}
    return {**kept, "score": score, "document_id": row["parent"]}
