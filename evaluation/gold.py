"""Answers from the memories of gold passages, read at any rate."""

import argparse
from collections.abc import Sequence

from clara.data.records import QuestionRecord
from clara.memory_clara import CorpusMemory
from clara.modeling_clara import ClaraForRetrievalGeneration

from .answer_losses import score_readings
from .reports import Scores


def gold_documents(records: Sequence[QuestionRecord]) -> list[str]:
    """The distinct gold documents, in the order in which they occur."""
    return list(dict.fromkeys(record.documents[place] for record in records for place in record.positives))


def gold_memory(
    model: ClaraForRetrievalGeneration, records: Sequence[QuestionRecord], batch_size: int
) -> CorpusMemory:
    """The memories of the gold documents, at the model's own rate."""
    return model.build_memory(gold_documents(records), batch_size=batch_size)


def read_gold(
    model: ClaraForRetrievalGeneration,
    memory: CorpusMemory,
    records: Sequence[QuestionRecord],
    arguments: argparse.Namespace,
    name: str,
) -> Scores:
    """Scores from the memories of each question's gold documents.

    Args:
        model: Reads.
        memory: Of `gold_memory`, at any rate.
        records: The questions.
        arguments: Of the experiment.
        name: What the progress bar says.
    """
    texts = gold_documents(records)
    parts: dict[str, list[int]] = {}
    for passage, parent in enumerate(memory.parents):
        parts.setdefault(texts[int(parent)], []).append(passage)
    chosen = [[p for place in r.positives for p in parts[r.documents[place]]] for r in records]
    return score_readings(
        model,
        memory,
        [record.question for record in records],
        [record.answers for record in records],
        chosen,
        arguments.max_new_tokens,
        arguments.batch_size,
        name,
    )
