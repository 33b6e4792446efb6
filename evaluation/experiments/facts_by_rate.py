"""Information kept against the compression rate, for dates, numbers and names apart.

The same questions are answered from the memories of their gold documents at several rates, with no memory,
and by the base from the documents' text. A model with mean pooling makes any number of memory tokens; one
with trained memory tokens uses the first of them; `--checkpoints` adds models trained at other rates. Beside
the answers, the documents are written out again from their memories, and the dates, numbers and names that
survive are counted.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clara.data.records import QuestionRecord
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.tokens_clara import plain_ids

from ..preservation import answer_kind
from ..rates import at_rate
from ..readings import LOSS, base_of, score_readings, score_text_readings
from ..reports import Scores
from ..rewriting import KEPT, kept_in_rewriting
from ..sample_rows import gold_rows
from ..summaries import SHOWN, error_bars, means_table, summarize
from ..tables import markdown_table, percent

NEEDS_MODEL = True
SIZES = (64, 32, 16, 8, 4, 2, 1)
KINDS = ("date", "number", "name", "other", "all")
NONE, TEXT = "no memory", "text, read by the base"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    parser.add_argument("--files", nargs="+", help="question rows with positives (default: samples)")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="questions a file (default: 100)")
    parser.add_argument(
        "--memory-tokens", type=int, nargs="+", metavar="M", help="of a passage (default: 64 to 1, as it can)"
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
    for name, (other, size) in conditions_of(model, arguments).items():
        with at_rate(other, size):
            conditions[name], rates[name] = read_at_rate(other, records, arguments, name)
            kept[name] = kept_in_rewriting(other, documents, arguments.seed)
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
    """Name -> model and memory tokens: the model at each rate, then the other checkpoints at their own."""
    own = model.config.num_memory_tokens
    longest = model.config.doc_max_length
    most = own if model.config.pooling == "memory_tokens" else longest
    sizes = arguments.memory_tokens or [n for n in SIZES if n <= most and not longest % n]
    found = {f"{size} memory tokens{' (trained)' if size == own else ''}": (model, size) for size in sizes}
    for path in arguments.checkpoints:
        other = ClaraForRetrievalGeneration.from_pretrained(path).to(model.device)
        found[f"{other.config.num_memory_tokens} memory tokens, {Path(path).name}"] = (
            other,
            other.config.num_memory_tokens,
        )
    return found


def gold_documents(records: Sequence[QuestionRecord]) -> list[str]:
    """The distinct gold documents, in the order in which they occur."""
    return list(dict.fromkeys(record.documents[place] for record in records for place in record.positives))


def read_at_rate(
    model: ClaraForRetrievalGeneration,
    records: Sequence[QuestionRecord],
    arguments: argparse.Namespace,
    name: str,
) -> tuple[Scores, float]:
    """Scores from the memories of the gold documents, and the measured tokens for each memory token."""
    texts = gold_documents(records)
    memory = model.build_memory(texts, batch_size=arguments.batch_size)
    parts: dict[str, list[int]] = {}
    for passage, parent in enumerate(memory.parents):
        parts.setdefault(texts[int(parent)], []).append(passage)
    chosen = [[p for place in r.positives for p in parts[r.documents[place]]] for r in records]
    scores = score_readings(
        model,
        memory,
        [record.question for record in records],
        [record.answers for record in records],
        chosen,
        arguments.max_new_tokens,
        arguments.batch_size,
        name,
    )
    tokens = sum(map(len, plain_ids(model.processor.tokenizer, texts)))
    return scores, tokens / (len(memory) * memory.num_memory_tokens)


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
        "Text tokens for each memory token, measured: "
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
