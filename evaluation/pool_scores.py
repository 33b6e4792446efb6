"""Retrieval and answers of one model on a benchmark's pools, with documents compressed and ranked once."""

from collections.abc import Sequence
from pathlib import Path

from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.processing_clara import reading_order

from .answer_losses import score_readings
from .benchmarks import Benchmark
from .language_models import ClaraModel
from .ranking import recall_at_k
from .reports import Scores
from .retrievers import MemoryRetriever

RECALL = "recall"


def score_pools(
    model: ClaraForRetrievalGeneration,
    benchmark: Benchmark,
    ks: Sequence[int],
    max_new_tokens: int = 32,
    batch_size: int = 16,
    memory_folder: Path | None = None,
) -> tuple[list[list[int]], dict[int, Scores]]:
    """Ranks every pool by the cosine of search vectors and reads the best k of it, for each k.

    Args:
        model: In eval mode, with its processor.
        benchmark: Questions with their pools.
        ks: Numbers of passages read.
        max_new_tokens: Longest answer; 0: only losses.
        batch_size: Questions at once.
        memory_folder: Where the documents' memories are kept between runs; None: nowhere.

    Returns:
        For each question the documents found, best first, and for each k the scores of
        `readings.score_readings` with `recall` of the documents (over questions that name positives).
    """
    clara, examples = ClaraModel(model), benchmark.examples
    passages = clara.split(benchmark.documents)
    memory = clara.compress(passages, memory_folder)
    parts: dict[int, list[int]] = {}
    for passage, parent in enumerate(passages.parents):
        parts.setdefault(int(parent), []).append(passage)
    pools = [[passage for document in e.pool for passage in parts[document]] for e in examples]
    questions, answers = [e.question for e in examples], [e.answers for e in examples]
    _, found = MemoryRetriever(clara, memory).search(questions, max(ks), pools)
    best = [[int(passage) for passage in row if passage >= 0] for row in found]
    ranked = [[int(passages.parents[passage]) for passage in row] for row in best]
    scores = {}
    for k in ks:
        chosen = [reading_order(passages, row[:k]) for row in best]
        scores[k] = score_readings(
            model, memory, questions, answers, chosen, max_new_tokens, batch_size, f"k = {k}"
        )
        recalled = [
            recall_at_k(row, e.positives, k) for row, e in zip(ranked, examples, strict=True) if e.positives
        ]
        if recalled:
            scores[k][RECALL] = recalled
    return ranked, scores
