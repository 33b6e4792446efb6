"""Long documents where order matters: reading passages in order or shuffled, and recall over length.

Each question asks about one long document (TimeQA: who held which post when), split into passages that are
compressed apart. The passages that the query memory finds in it, and all of them, are read in the document's
order, backwards and shuffled; the base reads the found passages' text likewise. A passage counts as found if
a gold answer stands in it word for word; its share among the best k is shown by the document's length, beside
BM25 and chance.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from clara.data.records import QuestionRecord
from clara.modeling_clara import ClaraForRetrievalGeneration

from ..answer_losses import base_of, score_readings, score_text_readings
from ..baselines import BM25Retriever
from ..language_models import ClaraModel
from ..metrics import cover_exact_match
from ..reports import Scores
from ..retrievers import MemoryRetriever
from ..sample_rows import SAMPLE_NAME, question_rows, sample_long_questions
from ..statistics import bootstrap_interval
from ..summaries import SHOWN, differences_table, error_bars, means_table, summarize
from ..tables import markdown_table, percent

NEEDS_MODEL = True
ORDERS = ("in order", "backwards", "shuffled")
REFERENCE = "found passages, in order"
SEARCHED = ("memories", "bm25", "chance")
GROUPS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    parser.add_argument("--files", nargs="+", help="rows with `document` and `qa` (default: samples, joined)")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="questions a file (default: 100)")
    parser.add_argument(
        "--per-document", type=int, metavar="N", help="questions of a document at most (default: all)"
    )
    parser.add_argument("--retrieval-top-k", type=int, default=5, metavar="K", help="passages found")
    parser.add_argument(
        "--max-passages", type=int, default=40, metavar="N", help="leave out longer documents"
    )
    parser.add_argument("--max-new-tokens", type=int, default=32, metavar="N", help="longest answer")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N")
    parser.add_argument("--no-text", action="store_true", help="leave out the base that reads text")
    parser.add_argument("--seed", type=int, default=0, help="of shuffling, intervals and tests")


def measure(arguments: argparse.Namespace, model: ClaraForRetrievalGeneration) -> dict[str, Any]:
    """Scores by order, and recall by length, as JSON values.

    Raises:
        ValueError: If no document has two passages or more and at most `max_passages`.
    """
    records, source = long_rows(arguments)
    long = LongDocuments(model, records, arguments.max_passages)
    if not long.records:
        raise ValueError(
            f"no document of {source} has between 2 and {arguments.max_passages} passages: order needs two."
        )
    found = {
        "memories": long.search(MemoryRetriever(long.clara, long.memory), arguments.retrieval_top_k),
        "bm25": long.search(BM25Retriever(long.passages.texts), arguments.retrieval_top_k),
    }
    conditions = read_orders(long, found["memories"], arguments)
    return {
        "source": source,
        "questions": len(long.records),
        "documents": len(long.documents),
        "passages": len(long.passages.texts),
        "retrieval_top_k": arguments.retrieval_top_k,
        "seed": arguments.seed,
        **summarize(conditions, REFERENCE, arguments.seed),
        "recall": recall_by_length(long, found, arguments.retrieval_top_k, arguments.seed),
    }


def long_rows(arguments: argparse.Namespace) -> tuple[list[QuestionRecord], str]:
    """Questions over one long document each, and their source."""
    most = arguments.per_document
    if arguments.files is None:
        records = first_of_documents(sample_long_questions(), most)
        return records[: arguments.limit], f"{SAMPLE_NAME}, passages joined"
    found = [question_rows([file]) for file in arguments.files]
    kept = [first_of_documents(records, most)[: arguments.limit] for records, _ in found]
    return [record for records in kept for record in records], ", ".join(name for _, name in found)


def first_of_documents(records: Sequence[QuestionRecord], most: int | None) -> list[QuestionRecord]:
    """The records without those of a document that already has `most`; None: all.

    Raises:
        ValueError: If `most` is below 1.
    """
    if most is None:
        return list(records)
    if most < 1:
        raise ValueError(f"`--per-document` must be at least 1, got {most}.")
    counts: Counter[str] = Counter()
    kept = []
    for record in records:
        counts[record.documents[0]] += 1
        if counts[record.documents[0]] <= most:
            kept.append(record)
    return kept


class LongDocuments:
    """Questions with the passages of their document, each passage compressed once.

    Args:
        model: Splits and compresses.
        records: Questions whose first document is the long one.
        max_passages: Documents with more, and those with only one, are left out with their questions.

    Attributes:
        records: The questions that are left.
        documents: Their distinct documents.
        passages: Of all documents.
        parts: For each question the passages of its document, in order.
        memory: Of all passages.
    """

    def __init__(
        self, model: ClaraForRetrievalGeneration, records: Sequence[QuestionRecord], max_passages: int
    ) -> None:
        self.model, self.clara = model, ClaraModel(model)
        texts = list(dict.fromkeys(record.documents[0] for record in records))
        split = model.processor.split_documents(texts)
        self.documents = [
            text for text, parts in zip(texts, split, strict=True) if 2 <= len(parts) <= max_passages
        ]
        number = {text: place for place, text in enumerate(self.documents)}
        self.records = [record for record in records if record.documents[0] in number]
        if not self.records:
            return
        self.passages = self.clara.split(self.documents)
        of_document: list[list[int]] = [[] for _ in self.documents]
        for passage, parent in enumerate(self.passages.parents):
            of_document[int(parent)].append(passage)
        self.parts = [of_document[number[record.documents[0]]] for record in self.records]
        self.memory = self.clara.compress(self.passages)

    @property
    def questions(self) -> list[str]:
        """The questions."""
        return [record.question for record in self.records]

    @property
    def answers(self) -> list[tuple[str, ...]]:
        """Their gold answers."""
        return [record.answers for record in self.records]

    def search(self, retriever: Any, k: int) -> list[list[int]]:
        """For each question the best k passages of its document, best first."""
        _, indices = retriever.search(self.questions, k, self.parts)
        return [[int(passage) for passage in row if passage >= 0] for row in indices]

    def holders(self) -> list[list[int]]:
        """For each question the passages of its document that hold a gold answer word for word."""
        return [
            [p for p in parts if cover_exact_match(self.passages.texts[p], record.answers)]
            for record, parts in zip(self.records, self.parts, strict=True)
        ]


def ordered(rows: Sequence[Sequence[int]], order: str, seed: int) -> list[list[int]]:
    """Passages in the order of the document, backwards, or shuffled (a draw for each question)."""
    if order == "shuffled":
        return [
            np.random.default_rng([seed, number]).permutation(row).tolist() for number, row in enumerate(rows)
        ]
    return [sorted(row, reverse=order == "backwards") for row in rows]


def read_orders(
    long: LongDocuments, found: Sequence[Sequence[int]], arguments: argparse.Namespace
) -> dict[str, Scores]:
    """Scores of every reading: what is read, in which order."""
    common = (arguments.max_new_tokens, arguments.batch_size)
    conditions = {}
    for label, rows in (("found passages", found), ("whole document", long.parts)):
        for order in ORDERS:
            name, chosen = f"{label}, {order}", ordered(rows, order, arguments.seed)
            conditions[name] = score_readings(
                long.model, long.memory, long.questions, long.answers, chosen, *common, name
            )
    if not arguments.no_text:
        base = base_of(long.model)
        for order in ORDERS:
            name, chosen = f"text of found passages, {order}", ordered(found, order, arguments.seed)
            conditions[name] = score_text_readings(
                base, long.passages.texts, long.questions, long.answers, chosen, *common, name
            )
    return conditions


def recall_by_length(
    long: LongDocuments, found: Mapping[str, Sequence[Sequence[int]]], k: int, seed: int
) -> list[dict[str, Any]]:
    """For groups of questions of similar document length: share whose best k hold the answer.

    Questions whose answer stands in no passage word for word are left out. Chance is the probability that k
    passages drawn at random hold it.
    """
    holders = long.holders()
    kept = sorted((row for row in range(len(holders)) if holders[row]), key=lambda row: len(long.parts[row]))
    groups = [group.tolist() for group in np.array_split(np.array(kept, dtype=int), GROUPS) if len(group)]
    lines = []
    for rows in groups:
        sizes = [len(long.parts[row]) for row in rows]
        hit = {
            name: [float(bool(set(best[row]) & set(holders[row]))) for row in rows]
            for name, best in found.items()
        }
        hit["chance"] = [chance(len(long.parts[row]), len(holders[row]), k) for row in rows]
        recall = {name: vars(bootstrap_interval(values, seed=seed)) for name, values in hit.items()}
        lines.append({"passages": [min(sizes), max(sizes)], "questions": len(rows), "recall": recall})
    return lines


def chance(passages: int, holders: int, k: int) -> float:
    """Probability that k of the passages, drawn without replacement, hold one of the holders."""
    missed = 1.0
    for drawn in range(min(k, passages)):
        missed *= max(passages - holders - drawn, 0) / (passages - drawn)
    return 1 - missed


def render(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    note = (
        f"{result['questions']} questions over {result['documents']} long documents of {result['source']}, "
        f"{result['passages']} passages in all, {result['retrieval_top_k']} found for a question. Percent "
        "(loss: nats a token of the gold answer) with 95 % bootstrap intervals, seed "
        f"{result['seed']}; differences are paired."
    )
    rows = [
        [f"{line['passages'][0]} to {line['passages'][1]}", str(line["questions"])]
        + [percent(line["recall"][name]) for name in SEARCHED]
        for line in result["recall"]
    ]
    header = ["passages of the document", "questions", *SEARCHED]
    parts = [
        "# Long documents: order of the passages, recall over length",
        note,
        means_table(result, SHOWN, "read"),
        differences_table(result, SHOWN, "read"),
        f"## Share of questions whose {result['retrieval_top_k']} found passages hold the answer",
        markdown_table(header, rows),
    ]
    return "\n\n".join(parts) + "\n"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Scores by order, and recall over length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(result["means"])
    heights, bars = error_bars([row["token_f1"] for row in result["means"].values()])
    colors = [f"C{ORDERS.index(name.rpartition(', ')[2])}" for name in names]
    left.barh(names, heights, xerr=bars, capsize=3, color=colors)
    left.invert_yaxis()
    left.set(xlabel="token F1 (%)", xlim=(0, None))
    middles = [sum(line["passages"]) / 2 for line in result["recall"]]
    for name in SEARCHED:
        heights, bars = error_bars([line["recall"][name] for line in result["recall"]])
        style = {"linestyle": ":", "color": "grey"} if name == "chance" else {"marker": "o"}
        right.errorbar(
            middles, heights, yerr=None if name == "chance" else bars, capsize=3, label=name, **style
        )
    right.set(xlabel="passages of the document", ylabel="answer found (%)", ylim=(0, 105))
    right.grid(alpha=0.3)
    right.legend(fontsize="small")
    figure.savefig(path, dpi=150)
