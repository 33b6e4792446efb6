"""Information kept against the compression rate, for dates, numbers and names apart.

The same questions are answered from the memories of their gold documents at several rates, with no memory,
and by the base from the documents' text. A model reads its memories at multiples of its own rate, the mean
of neighbouring vectors; `--checkpoints` adds models trained at other rates. Beside the answers, the documents
are written out again from their memories, and the dates, numbers and names that survive are counted.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clara.data.records import QuestionRecord
from clara.memory_clara import CorpusMemory
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.prompts_clara import plain_ids

from ..answer_losses import LOSS, base_of, score_readings, score_text_readings
from ..preservation import answer_kind
from ..rates import coarser, rate_factor
from ..reports import Scores
from ..rewriting import KEPT, kept_in_rewriting
from ..sample_rows import gold_rows
from ..summaries import SHOWN, error_bars, means_table, summarize
from ..tables import markdown_table, percent

NEEDS_MODEL = True
KINDS = ("date", "number", "name", "other", "all")
NONE, TEXT = "no memory", "text, read by the base"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    parser.add_argument("--files", nargs="+", help="question rows with positives (default: samples)")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="questions a file (default: 100)")
    parser.add_argument(
        "--rates", type=int, nargs="+", metavar="R", help="tokens a vector (default: the model's, doubled on)"
    )
    parser.add_argument("--checkpoints", nargs="+", default=[], metavar="PATH", help="more, at their rates")
    parser.add_argument("--rewrites", type=int, default=24, metavar="N", help="documents written out again")
    parser.add_argument("--max-new-tokens", type=int, default=32, metavar="N", help="longest answer")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals and tests")


def measure(arguments: argparse.Namespace, model: ClaraForRetrievalGeneration) -> dict[str, Any]:
    """Loss and scores by rate and kind of answer, and what rewriting keeps, as JSON values.

    Raises:
        ValueError: If no question names positives, or a rate is not possible.
    """
    records, source = gold_rows(arguments.files, arguments.limit)
    kinds = [answer_kind(record.answers[0]) for record in records]
    documents = gold_documents(records)[: arguments.rewrites]
    conditions: dict[str, Scores] = {}
    rates, kept = {}, {}
    memories: dict[ClaraForRetrievalGeneration, CorpusMemory] = {}
    for name, (other, factor) in conditions_of(model, arguments).items():
        if other not in memories:
            memories = {other: gold_memory(other, records, arguments.batch_size)}
        memory = coarser(memories[other], factor)
        conditions[name] = read_gold(other, memory, records, arguments, name)
        rates[name] = tokens_a_vector(other, memory)
        kept[name] = kept_in_rewriting(other, documents, arguments.seed, factor)
    conditions[NONE] = read_nothing(model, records, arguments)
    conditions[TEXT] = read_text(model, records, arguments)
    return {
        "source": source,
        "seed": arguments.seed,
        "rates": rates,
        "kept": kept,
        "kinds": {
            kind: {"questions": len(rows), **summarize(_rows(conditions, rows), NONE, arguments.seed)}
            for kind in KINDS
            if (rows := [r for r, found in enumerate(kinds) if kind in (found, "all")])
        },
    }


def conditions_of(
    model: ClaraForRetrievalGeneration, arguments: argparse.Namespace
) -> dict[str, tuple[ClaraForRetrievalGeneration, int]]:
    """Name -> model and factor of its rate: the model at each rate, then the other checkpoints at their own.

    Raises:
        ValueError: If a rate is no multiple of the model's.
    """
    own, longest = model.config.compression_rate, model.config.doc_max_length
    doubled = [own << step for step in range(longest.bit_length()) if own << step <= longest]
    found = {
        f"rate {rate}{' (trained)' if rate == own else ''}": (model, rate_factor(model.config, rate))
        for rate in arguments.rates or doubled
    }
    for path in arguments.checkpoints:
        other = ClaraForRetrievalGeneration.from_pretrained(path).to(model.device)
        found[f"rate {other.config.compression_rate}, {Path(path).name}"] = (other, 1)
    return found


def gold_documents(records: Sequence[QuestionRecord]) -> list[str]:
    """The distinct gold documents, in the order in which they occur."""
    return list(dict.fromkeys(record.documents[place] for record in records for place in record.positives))


def gold_memory(
    model: ClaraForRetrievalGeneration, records: Sequence[QuestionRecord], batch_size: int
) -> CorpusMemory:
    """The memories of the gold documents, at the model's own rate."""
    return model.build_memory(gold_documents(records), batch_size=batch_size)


def tokens_a_vector(model: ClaraForRetrievalGeneration, memory: CorpusMemory) -> float:
    """Text tokens for each memory vector, measured."""
    return sum(map(len, plain_ids(model.processor.tokenizer, memory.texts))) / int(memory.offsets[-1])


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


def read_nothing(
    model: ClaraForRetrievalGeneration, records: Sequence[QuestionRecord], arguments: argparse.Namespace
) -> Scores:
    """Scores of the generator without any memory: what it knows or guesses."""
    memory = model.build_memory([records[0].documents[0]], show_progress=False)
    questions, answers = [r.question for r in records], [r.answers for r in records]
    chosen: list[list[int]] = [[] for _ in records]
    return score_readings(
        model, memory, questions, answers, chosen, arguments.max_new_tokens, arguments.batch_size, NONE
    )


def read_text(
    model: ClaraForRetrievalGeneration, records: Sequence[QuestionRecord], arguments: argparse.Namespace
) -> Scores:
    """Answer scores of the base with the text of the gold documents in its prompt."""
    texts = gold_documents(records)
    places = {text: place for place, text in enumerate(texts)}
    chosen = [[places[record.documents[place]] for place in record.positives] for record in records]
    return score_text_readings(
        base_of(model),
        texts,
        [record.question for record in records],
        [record.answers for record in records],
        chosen,
        arguments.max_new_tokens,
        arguments.batch_size,
        TEXT,
    )


def _rows(conditions: Mapping[str, Scores], rows: Sequence[int]) -> dict[str, Scores]:
    return {
        name: {metric: [values[row] for row in rows] for metric, values in scores.items()}
        for name, scores in conditions.items()
    }


def render(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    parts = [
        "# Information kept against the compression rate",
        f"Questions of {result['source']}, each read from its gold documents; percent (loss: nats a token of "
        f"the gold answer) with 95 % bootstrap intervals, seed {result['seed']}. The kind of a question is "
        "that of its first gold answer.",
        "Text tokens for each memory vector, measured: "
        + ", ".join(f"{name} {rate:.1f}" for name, rate in result["rates"].items())
        + ".",
    ]
    for kind, summary in result["kinds"].items():
        parts += [f"## {kind}: {summary['questions']} questions", means_table(summary, SHOWN)]
    rows = [[name, *(percent(row.get(part)) for part in KEPT)] for name, row in result["kept"].items()]
    written = "## Written out again: share of the document that survives"
    parts += [written, markdown_table(["condition", *(part.replace("_", "-") for part in KEPT)], rows)]
    return "\n\n".join(parts) + "\n"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Loss and cover EM over the measured rate, one line for each kind of answer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    names = sorted(result["rates"], key=result["rates"].get)
    rates = [result["rates"][name] for name in names]
    for axes, metric in zip(figure.subplots(1, 2), (LOSS, "cover_exact_match"), strict=True):
        scale = 1 if metric == LOSS else 100
        for number, (kind, summary) in enumerate(result["kinds"].items()):
            heights, bars = error_bars([summary["means"][name][metric] for name in names], scale)
            label = f"{kind} ({summary['questions']})"
            axes.errorbar(rates, heights, yerr=bars, marker="o", capsize=3, color=f"C{number}", label=label)
            floor = scale * summary["means"][NONE][metric]["mean"]
            axes.axhline(floor, linestyle=":", color=f"C{number}", alpha=0.7)
        axes.set_xscale("log", base=2)
        label = "loss (nats)" if metric == LOSS else "cover EM (%)"
        axes.set(xlabel="text tokens per memory token", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", title="dotted: no memory")
    figure.savefig(path, dpi=150)
