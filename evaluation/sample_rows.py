"""Question rows for experiments: of files, or of the sample corpus that ships with the repository."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from clara.data.readers import read_questions
from clara.data.records import QuestionRecord
from clara.data.sample_corpus import sample_questions as question_lines
from clara.data.sample_corpus import sample_texts

SAMPLE_NAME = "sample corpus"


def question_rows(
    files: Sequence[str] | None, limit: int | None = None, pool_size: int = 10
) -> tuple[list[QuestionRecord], str]:
    """Question rows and what to call their source.

    Args:
        files: Question files; None: the sample corpus.
        limit: Rows of each file; None: all.
        pool_size: Candidates of a question of the sample corpus. Rows of files keep their own.

    Raises:
        ValueError: If a row is bad, or there is none.
    """
    if files is None:
        return sample_questions(pool_size)[:limit], SAMPLE_NAME
    records = [record for file in files for record in islice(read_questions(file), limit)]
    if not records:
        raise ValueError(f"`files` {list(files)} hold no question.")
    return records, ", ".join(Path(file).name for file in files)


def gold_rows(files: Sequence[str] | None, limit: int | None = None) -> tuple[list[QuestionRecord], str]:
    """Those of `question_rows` that name positives, and what to call their source.

    Raises:
        ValueError: If a row is bad, or none names positives.
    """
    records, source = question_rows(files, limit)
    kept = [record for record in records if record.positives]
    if not kept:
        raise ValueError(f"no question of {source} names positives: there is no gold document to read.")
    return kept, source


def sample_questions(pool_size: int = 10) -> list[QuestionRecord]:
    """The sample questions, each with its gold documents and those that follow them in the corpus.

    Neighbours in the corpus are of one subject (bridges, composers, moons), so the pools are not easy. The
    gold documents do not always come first: a pool keeps the order of the corpus.
    """
    texts = sample_texts()
    records = []
    for row in question_lines():
        gold = row["positives"]
        following = ((gold[0] + step) % len(texts) for step in range(len(texts)))
        pool = sorted(islice(dict.fromkeys([*gold, *following]), max(pool_size, len(gold))))
        positives = tuple(pool.index(place) for place in gold)
        documents = tuple(texts[place] for place in pool)
        records.append(QuestionRecord(row["question"], tuple(row["answers"]), documents, positives))
    return records
