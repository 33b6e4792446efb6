"""The rows that training is measured on: of files in the released schema, or dealt out of the samples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from clara.data.readers import read_corpus, read_pretraining, read_questions
from clara.data.records import PretrainingRecord, QuestionRecord
from clara.data.sample_corpus import sample_questions, sample_texts

from .workload import Sizes


@dataclass(frozen=True)
class Rows:
    """Rows of training."""

    questions: list[QuestionRecord]  # each with a full pool of candidates
    rich: list[PretrainingRecord]  # documents with three signals or more
    plain: list[PretrainingRecord]  # all documents, with one signal each
    source: str  # what a reader has to know of them


def sample_rows(sizes: Sizes, rounds: int) -> Rows:
    """Rows out of the sample corpus: its questions with pools of neighbours; and questions dealt out.

    The samples have no document with three signals, so their questions are dealt out: what is learnt is
    wrong, what is computed is not. So many rounds see rows of their own.
    """
    texts, asked = sample_texts(), sample_questions()
    deal = cycle((row["question"], tuple(row["answers"][:1])) for row in asked)

    def dealt(text: str, count: int) -> PretrainingRecord:
        questions, answers = zip(*islice(deal, count), strict=True)
        return PretrainingRecord(text, questions, answers)

    questions = []
    for row in spread(asked, rounds * sizes.questions):
        gold = row["positives"]
        pool = neighbours(texts, gold, sizes.candidates)
        questions.append(
            QuestionRecord(row["question"], tuple(row["answers"][:1]), pool, tuple(range(len(gold))))
        )
    rich = [dealt(text, sizes.signals) for text in spread(texts, rounds * sizes.rows)]
    plain = [dealt(text, 1) for text in texts]
    return Rows(questions, rich, plain, "sample corpus, its questions dealt out to the documents")


def neighbours(texts: Sequence[str], gold: Sequence[int], count: int) -> tuple[str, ...]:
    """The gold documents, then those that follow them in the corpus."""
    order = dict.fromkeys([*gold, *((gold[0] + step) % len(texts) for step in range(len(texts)))])
    return tuple(texts[index] for index in islice(order, count))


def file_rows(questions: Path, corpus: Path, pretraining: Sequence[Path], sizes: Sizes, rounds: int) -> Rows:
    """Rows of files in the released schema; pools are filled from the corpus by BM25.

    So many rounds see rows of their own. A ValueError if a file has too few of a kind, or a bad row.
    """
    asked = spread(list(read_questions(questions)), rounds * sizes.questions)
    records = list(read_pretraining(list(pretraining)))
    rich = [record for record in records if record.num_signals >= 3]
    return Rows(
        filled(asked, [record.document for record in read_corpus(corpus)], sizes.candidates),
        [trimmed(record, sizes.signals) for record in spread(rich, rounds * sizes.rows)],
        [trimmed(record, 1) for record in records if record.num_signals],
        ", ".join(path.name for path in (questions, corpus, *pretraining)),
    )


def filled(records: Sequence[QuestionRecord], corpus: Sequence[str], count: int) -> list[QuestionRecord]:
    """Records with pools of `count` documents: their own, then BM25's; a ValueError if too few differ."""
    from clara.data.synthesis.retrievers import BM25Retriever

    found = BM25Retriever(corpus).search([record.question for record in records], 2 * count)
    full = []
    for record, texts in zip(records, found, strict=True):
        pool = tuple(dict.fromkeys([*record.documents, *texts]))[:count]
        if len(pool) < count:
            raise ValueError(f"`corpus` has too few different documents to fill pools of {count}.")
        kept = tuple(place for place in record.positives if place < count)
        full.append(replace(record, documents=pool, positives=kept))
    return full


def trimmed(record: PretrainingRecord, count: int) -> PretrainingRecord:
    """A record with at most `count` signals: questions first, then at most one paraphrase."""
    questions = record.questions[:count]
    paraphrases = record.paraphrases[: min(1, count - len(questions))]
    return PretrainingRecord(record.document, questions, record.answers[: len(questions)], paraphrases)


def single_signals(record: PretrainingRecord) -> list[PretrainingRecord]:
    """The same signals, one a row: each row has the document again."""
    pairs = zip(record.questions, record.answers, strict=True)
    rows = [PretrainingRecord(record.document, (question,), (answers,)) for question, answers in pairs]
    return rows + [PretrainingRecord(record.document, paraphrases=(text,)) for text in record.paraphrases]


def spread(items: Sequence, count: int) -> list:
    """`count` items at even distances; a ValueError if there are fewer."""
    if len(items) < count:
        raise ValueError(f"The benchmark needs {count} rows of a kind, the source has {len(items)}.")
    return [items[index * len(items) // count] for index in range(count)]
