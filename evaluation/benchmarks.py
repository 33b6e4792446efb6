"""Benchmarks: questions with pools of candidate documents over one list of documents, in two settings.

`normal` takes each pool as it was retrieved; `oracle` forces the positives in (paper section 4.1). The
paper reads pools of 5 to judge the compressor and chooses from pools of 20 end to end.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, islice
from operator import itemgetter

from clara.data.readers import Source, read_questions
from clara.data.records import QuestionRecord
from clara.memory_clara import CorpusMemory

from .metrics import normalize_answer
from .retrievers import bm25_retriever

logger = logging.getLogger(__name__)

SETTINGS = ("normal", "oracle")
HUB_DATA = "apple/CLaRa_multi_stage"
BENCHMARKS = ("nq", "hotpotqa", "musique", "2wiki")
HUB_STAGES = {5: "inst_eval", 20: "e2e_eval"}
HUB_SETTINGS = {"normal": "no_pos", "oracle": "with_pos"}


@dataclass(frozen=True)
class Example:
    """One question of a benchmark; documents are indices into `Benchmark.documents`."""

    id: str  # its row in the source
    question: str
    answers: tuple[str, ...]  # gold answers, at least one, each with something left after normalisation
    pool: tuple[int, ...]  # candidate documents in the order in which they were retrieved
    positives: tuple[int, ...]  # documents known to hold the answer, in the pool or not; may be empty


@dataclass(frozen=True)
class Benchmark:
    """Questions over one list of documents."""

    name: str  # one of `BENCHMARKS`
    setting: str  # "normal" or "oracle"
    documents: tuple[str, ...]  # N distinct texts
    examples: tuple[Example, ...]
    skipped: tuple[str, ...] = ()  # rows left out because no gold answer survives normalisation (such as "*")

    def fingerprint(self) -> str:
        """SHA-256 over all questions, answers, pools and documents."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def load_benchmark(
    name: str,
    setting: str = "normal",
    source: Source | None = None,
    pool_size: int = 20,
    fill: bool = False,
    limit: int | None = None,
) -> Benchmark:
    """Reads a benchmark and builds its pools.

    Args:
        name: "nq", "hotpotqa", "musique" or "2wiki".
        setting: "normal" or "oracle".
        source: files or a data set (see `clara.data.readers`). None: the paper's released evaluation rows,
            which exist for pools of 5 and 20.
        pool_size: the most candidates of a question.
        fill: whether a smaller pool is filled by BM25 from the other questions' documents.
        limit: number of questions, from the start; None: all.

    Raises:
        ValueError: an argument is unknown or out of range, a row is bad, there is no question, or `setting`
            is "oracle" and a row names no positives.
    """
    check_choice("benchmark", name, BENCHMARKS)
    check_choice("setting", setting, SETTINGS)
    for key, value in (("pool_size", pool_size), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"`{key}` must be at least 1, got {value}.")
    place = _hub_source(name, setting, pool_size) if source is None else source
    records = islice(read_questions(place, split="test"), limit)
    rows = [(str(row), record) for row, record in enumerate(records)]
    if not rows:
        raise ValueError(f"`source` {source} holds no question.")
    return build_benchmark(name, setting, rows, pool_size, fill)


def build_benchmark(
    name: str,
    setting: str,
    rows: Sequence[tuple[str, QuestionRecord]],
    pool_size: int = 20,
    fill: bool = False,
) -> Benchmark:
    """Builds a benchmark from records with their ids; see `load_benchmark`."""
    documents = {
        text: index for index, text in enumerate(dict.fromkeys(d for _, r in rows for d in r.documents))
    }
    scored = {row: tuple(filter(normalize_answer, record.answers)) for row, record in rows}
    skipped = tuple(row for row, answers in scored.items() if not answers)
    if skipped:
        logger.warning(
            "left out %d questions without a gold answer that can be scored: %s", len(skipped), skipped
        )
    examples = [
        Example(
            id=row,
            question=record.question,
            answers=scored[row],
            pool=tuple(documents[record.documents[i]] for i in choose_pool(record, setting, pool_size, row)),
            positives=tuple(dict.fromkeys(documents[record.documents[i]] for i in record.positives)),
        )
        for row, record in rows
        if scored[row]
    ]
    if fill:
        examples = fill_pools(examples, tuple(documents), pool_size)
    return Benchmark(name, setting, tuple(documents), tuple(examples), skipped)


def whole_documents(memory: CorpusMemory) -> Iterator[str]:
    """The documents of a corpus memory in their order; the passages of a split one are put together."""
    for _, parts in groupby(zip(memory.parents, memory.texts, strict=True), key=itemgetter(0)):
        yield " ".join(text for _, text in parts)


def with_documents(benchmark: Benchmark, texts: Iterable[str]) -> Benchmark:
    """The benchmark with more documents for the systems that search all; one that it has is not added.

    The numbers of its own stay, and white space does not tell two apart.
    """
    seen, extra = {"".join(text.split()) for text in benchmark.documents}, []
    for text in texts:
        key = "".join(text.split())
        if key not in seen:
            seen.add(key)
            extra.append(text)
    return replace(benchmark, documents=(*benchmark.documents, *extra))


def choose_pool(record: QuestionRecord, setting: str, pool_size: int, row: str = "") -> list[int]:
    """Indices of the record's documents in its pool, in the record's order, at most `pool_size`.

    In the setting "oracle" positives beyond the cut take the places of the last documents that are none.

    Raises:
        ValueError: the setting is "oracle" and the record names no positives, or more than `pool_size`.
    """
    texts = record.documents
    distinct = [i for i, text in enumerate(texts) if texts.index(text) == i]
    if setting == "normal":
        return distinct[:pool_size]
    positives = {texts.index(texts[i]) for i in record.positives}
    if not 0 < len(positives) <= pool_size:
        raise ValueError(
            f"row {row}: the setting 'oracle' needs between 1 and `pool_size` = {pool_size} positives, got "
            f"{len(positives)}. Use the setting 'normal', or leave the row out."
        )
    others = [i for i in distinct if i not in positives]
    kept = positives | set(others[: pool_size - len(positives)])
    return [i for i in distinct if i in kept]


def fill_pools(examples: Sequence[Example], documents: Sequence[str], pool_size: int) -> list[Example]:
    """Fills smaller pools up to `pool_size` with the best by BM25; a ValueError if documents are fewer."""
    depth = min(2 * pool_size, len(documents))
    _, ranked = bm25_retriever(documents).search([example.question for example in examples], depth)
    return [
        replace(example, pool=tuple(dict.fromkeys([*example.pool, *order]))[:pool_size])
        for example, order in zip(examples, ranked.tolist(), strict=True)
    ]


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises a `ValueError` that lists the choices if `value` is none of them."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}.")


def _hub_source(name: str, setting: str, pool_size: int) -> str:
    if pool_size not in HUB_STAGES:
        raise ValueError(
            f"`pool_size` must be 5 or 20 for the released rows of {HUB_DATA}, got {pool_size}. "
            "Name a file of your own to use another."
        )
    return f"{HUB_DATA}:{HUB_STAGES[pool_size]}_{name}_{HUB_SETTINGS[setting]}"
