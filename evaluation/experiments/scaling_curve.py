"""Examples seen in training against held-out loss and answers, and what the trend says of more training.

Each checkpoint answers the same questions from the memories of their gold documents. A power law is fitted to
the loss (a straight line of log loss over log examples) and a straight line over log examples to the scores;
both are carried on to more examples. The intervals resample the questions, not the training runs: that the
trend goes on is an assumption, and one that fails where the data repeat or the model is full.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clara.data.readers import read_questions
from clara.data.records import QuestionRecord
from clara.data.sample_corpus import sample_questions, sample_texts
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.processing_clara import IGNORE_INDEX
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from ..devices import choose_device
from ..language_models import ClaraModel
from ..metrics import score_answers
from ..readers import MemoryReader, by_size, read_all
from ..reports import TITLES, Scores
from ..statistics import RESAMPLES, bootstrap_interval, percentile_interval
from ..tables import markdown_table, percent

NEEDS_MODEL = False
LOSS = "loss"
COLUMNS = {
    LOSS: "loss (nats)",
    "token_f1": TITLES["token_f1"],
    "cover_exact_match": TITLES["cover_exact_match"],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment's options."""
    add = parser.add_argument
    add("--points", nargs="+", required=True, metavar="EXAMPLES=PATH", help="checkpoints, by examples seen")
    add("--files", nargs="+", help="question rows with positives (default: samples)")
    add("--limit", type=int, default=100, help="questions a file")
    add("--ahead", type=int, nargs="+", default=[10, 100], help="times the most examples")
    add("--max-new-tokens", type=int, default=32, help="longest answer")
    add("--batch-size", type=int, default=16)
    add("--seed", type=int, default=0, help="of the intervals")
    add("--device", help="to measure on (default: the accelerator if there is one)")


def parse_points(points: Sequence[str]) -> dict[int, str]:
    """Examples seen to checkpoint, fewest first; a ValueError unless there are two EXAMPLES=PATH at least."""
    found = {}
    for point in points:
        seen, _, path = point.partition("=")
        if not seen.isdigit() or not int(seen) or not path:
            raise ValueError(
                f"`--points` takes EXAMPLES=PATH such as 4800=runs/checkpoint-600, got {point!r}."
            )
        found[int(seen)] = path
    if len(found) < 2:
        raise ValueError(f"`--points` needs checkpoints at two numbers of examples at least, got {points}.")
    return dict(sorted(found.items()))


def measure(arguments: argparse.Namespace, model: None = None) -> dict[str, Any]:
    """Scores of every checkpoint and the trends, as JSON values; a ValueError if an option or row is bad."""
    points = parse_points(arguments.points)
    records, source = gold_rows(arguments.files, arguments.limit)
    device = choose_device(arguments.device)
    conditions: dict[str, Scores] = {}
    for count, path in points.items():
        checkpoint = ClaraForRetrievalGeneration.from_pretrained(path).to(device).eval()
        conditions[f"{count:,}"] = read_gold(checkpoint, records, arguments, f"{count} examples")
    seen, ahead = list(points), [factor * max(points) for factor in arguments.ahead]
    return {
        "source": source,
        "questions": len(records),
        "seed": arguments.seed,
        "examples": seen,
        "trends": {
            metric: trend(seen, [row[metric] for row in conditions.values()], ahead, metric, arguments.seed)
            for metric in COLUMNS
        },
        "means": {
            name: {metric: bootstrap_interval(row[metric], seed=arguments.seed) for metric in COLUMNS}
            for name, row in conditions.items()
        },
    }


def gold_rows(files: Sequence[str] | None, limit: int) -> tuple[list[QuestionRecord], str]:
    """Questions that name gold documents, and their source; a ValueError if none does, or a row is bad."""
    if files is None:
        texts, source = sample_texts(), "sample corpus"
        records = [_sample_row(row, texts) for row in sample_questions()][:limit]
    else:
        source = ", ".join(Path(file).name for file in files)
        records = [record for file in files for record in islice(read_questions(file), limit)]
    kept = [record for record in records if record.positives]
    if not kept:
        raise ValueError(f"no question of {source} names positives: there is no gold document to read.")
    return kept, source


def _sample_row(row: Mapping[str, Any], texts: Sequence[str]) -> QuestionRecord:
    gold = tuple(texts[place] for place in row["positives"])
    return QuestionRecord(row["question"], tuple(row["answers"]), gold, tuple(range(len(gold))))


def read_gold(
    model: ClaraForRetrievalGeneration,
    records: Sequence[QuestionRecord],
    arguments: argparse.Namespace,
    name: str,
) -> Scores:
    """Scores from the memories of each question's gold documents; `name` is shown with the progress."""
    gold = [[record.documents[place] for place in record.positives] for record in records]
    texts = list(dict.fromkeys(text for row in gold for text in row))
    memory = model.build_memory(texts, batch_size=arguments.batch_size)
    passages: dict[str, list[int]] = {}
    for passage, parent in enumerate(memory.parents):
        passages.setdefault(texts[int(parent)], []).append(passage)
    questions, answers = [record.question for record in records], [record.answers for record in records]
    chosen = [[passage for text in row for passage in passages[text]] for row in gold]
    reader, size, losses = MemoryReader(ClaraModel(model), memory), arguments.batch_size, [0.0] * len(records)
    for rows in by_size(list(map(reader.size, questions, chosen)), size, f"{name}, loss"):
        golds, memories = [answers[row][0] for row in rows], [memory.gather(chosen[row]) for row in rows]
        found = answer_losses(model, [questions[row] for row in rows], golds, memories)
        for row, loss in zip(rows, found, strict=True):
            losses[row] = loss
    said = read_all(reader, questions, chosen, arguments.max_new_tokens, size, name)
    return {LOSS: losses, **score_answers(said, answers)}


def trend(
    examples: Sequence[int],
    values: Sequence[Sequence[float]],
    ahead: Sequence[int],
    metric: str,
    seed: int = 0,
) -> dict[str, Any]:
    """The line over log examples, carried on.

    Args:
        examples: P numbers of examples.
        values: P rows of Q per-question values.
        ahead: Numbers of examples to carry the line on to.
        metric: Its logarithm is fitted if it is the loss; other scores stay between 0 and 1.
        seed: Of the intervals.

    Returns:
        `slope` (of log loss, or of the score, over the natural logarithm of the examples) and `ahead`
        (examples to value), each with `mean`, `low`, `high`.
    """
    table = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, table.shape[1], (RESAMPLES, table.shape[1]))
    means = np.concatenate([table.mean(1)[:, None], table[:, draws].mean(-1)], axis=1)
    heights = np.log(means) if metric == LOSS else means
    slope, offset = np.polyfit(np.log(examples), heights, 1)
    found = {}
    for count in ahead:
        line = offset + slope * math.log(count)
        value = np.exp(line) if metric == LOSS else line.clip(0, 1)
        found[str(count)] = percentile_interval(value[0], value[1:])
    return {"slope": percentile_interval(slope[0], slope[1:]), "ahead": found}


def render(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    note = (
        f"{result['questions']} questions of {result['source']}, each read from its gold documents by every "
        "checkpoint. Percent (loss: nats a token of the gold answer) with 95 % bootstrap intervals over "
        f"questions, seed {result['seed']}."
    )
    counts = list(next(iter(result["trends"].values()))["ahead"])
    header = ["examples", *COLUMNS.values()]
    seen = [[name, *(_cell(row[m], m) for m in COLUMNS)] for name, row in result["means"].items()]
    ahead = [
        [f"{int(count):,}", *(_cell(result["trends"][m]["ahead"][count], m) for m in COLUMNS)]
        for count in counts
    ]
    slopes = ", ".join(
        f"{title} {result['trends'][metric]['slope']['mean']:.3f}" for metric, title in COLUMNS.items()
    )
    parts = [
        "# More training, what then?",
        note,
        markdown_table(header, seen),
        "## The trend, carried on",
        markdown_table(header, ahead),
        f"Slopes over the natural logarithm of the examples (of the loss: of its logarithm): {slopes}. The "
        "intervals are over questions alone. That the line goes on is an assumption, not a measurement.",
    ]
    return "\n\n".join(parts) + "\n"


def _cell(interval: Mapping[str, float], metric: str) -> str:
    if metric != LOSS:
        return percent(interval)
    return f"{interval['mean']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Loss and scores over the examples, with the lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    counts = result["examples"]
    for axes, (metric, title) in zip(figure.subplots(1, len(COLUMNS)), COLUMNS.items(), strict=True):
        scale = 1 if metric == LOSS else 100
        means = [row[metric] for row in result["means"].values()]
        _points(axes, counts, means, scale, marker="o")
        further = result["trends"][metric]["ahead"]
        ends = [int(count) for count in further]
        _points(axes, ends, list(further.values()), scale, marker="s", linestyle=":", color="grey")
        axes.set(xscale="log", xlabel="examples seen", ylabel=title)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def _points(
    axes: Any, counts: Sequence[int], intervals: Sequence[Mapping[str, float]], scale: float, **style: str
) -> None:
    """Draws means with their intervals."""
    means = [scale * interval["mean"] for interval in intervals]
    below = [scale * (interval["mean"] - interval["low"]) for interval in intervals]
    above = [scale * (interval["high"] - interval["mean"]) for interval in intervals]
    axes.errorbar(counts, means, yerr=[below, above], capsize=3, **style)


@torch.no_grad()
def answer_losses(
    model: ClaraForRetrievalGeneration,
    questions: Sequence[str],
    answers: Sequence[str],
    memories: Sequence[Sequence[Tensor]],
) -> list[float]:
    """Mean loss per answer token in nats, of each of B questions, given its memories (m, H), if any."""
    slots = [[len(memory) for memory in row] for row in memories]
    batch = model.processor.encode_prompts(questions, slots, answers).to(model.device)
    counts = pad_sequence([torch.tensor(row, dtype=torch.long) for row in slots], batch_first=True)
    width = model.config.get_text_config().hidden_size
    given = torch.zeros(*counts.shape, max((count for row in slots for count in row), default=1), width)
    for place, row in enumerate(memories):
        for rank, memory in enumerate(row):
            given[place, rank, : len(memory)] = memory
    device = model.device
    logits = model(**batch, memory=given.to(device), memory_counts=counts.to(device)).logits
    labels = batch["labels"][:, 1:]
    losses = functional.cross_entropy(logits.float(), labels[labels != IGNORE_INDEX], reduction="none")
    lengths = (labels != IGNORE_INDEX).sum(dim=-1).tolist()
    return [float(part.mean()) for part in losses.split(lengths)]
