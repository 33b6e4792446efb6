"""Comparing trained arms: options, retrieval and answers of each, page and picture."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..train.recipe import read_recipe
from .answer_losses import LOSS
from .benchmarks import Benchmark, build_benchmark
from .devices import choose_device
from .language_models import memory_folder
from .pool_scores import RECALL, score_pools
from .ranking import score_ranking
from .reports import Scores
from .sample_rows import question_rows
from .summaries import SHOWN, differences_table, error_bars, means_table, summarize
from .training_arms import Arm, Plan, describe, trained

CUTS = (1, 3, 5)
METRICS = (*(f"recall@{k}" for k in CUTS), *SHOWN)
PICTURED = ("recall@1", "token_f1", LOSS)


def add_arm_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of every comparison of trained arms."""
    parser.add_argument("--start", metavar="PATH", help="checkpoint to train on from (default: a new model)")
    parser.add_argument("--base", default="smollm2-135m", metavar="NAME", help="base of a new model")
    parser.add_argument(
        "--recipes", nargs="+", default=[], metavar="FILE", help="recipe of each stage (default: tiny rows)"
    )
    parser.add_argument("--steps", type=int, default=4, metavar="N", help="optimizer steps (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of training, intervals and tests")
    parser.add_argument("--files", nargs="+", help="question rows to measure on (default: sample corpus)")
    parser.add_argument("--limit", type=int, default=16, metavar="N", help="questions a file (default: 16)")
    parser.add_argument("--pool-size", type=int, default=10, metavar="N", help="candidates (default: 10)")
    parser.add_argument("--max-new-tokens", type=int, default=16, metavar="N", help="longest answer")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="questions at once")
    parser.add_argument("--device", help="to measure on (default: the accelerator if there is one)")
    parser.add_argument(
        "--runs", type=Path, default=Path("outputs/arms"), metavar="FOLDER", help="where arms are trained"
    )


def make_plan(arguments: argparse.Namespace, folder: str) -> Plan:
    """What the arms share, out of the options; the runs lie in a sub-folder.

    Raises:
        ValueError: If a recipe names no stage, or two name the same.
    """
    if arguments.steps < 1:
        raise ValueError(f"`--steps` must be at least 1, got {arguments.steps}.")
    recipes: dict[str, dict[str, Any]] = {}
    for file in arguments.recipes:
        recipe = read_recipe(file)
        stage = recipe.get("stage")
        if stage is None or stage in recipes:
            raise ValueError(f"{file} must be the only recipe of its stage and name it, got {stage!r}.")
        recipes[stage] = recipe
    return Plan(
        arguments.start, arguments.base, recipes, arguments.steps, arguments.seed, arguments.runs / folder
    )


def held_out(arguments: argparse.Namespace) -> tuple[Benchmark, str]:
    """The questions that the arms are measured on, and their source."""
    records, source = question_rows(arguments.files, arguments.limit, arguments.pool_size)
    rows = [(str(number), record) for number, record in enumerate(records)]
    return build_benchmark("arms", "normal", rows, arguments.pool_size), source


def compare(
    arguments: argparse.Namespace, arms: Mapping[str, Arm], reference: str, folder: str
) -> dict[str, Any]:
    """Trains every arm and measures it on the same held-out questions, as JSON values.

    Args:
        arguments: Of `add_arm_arguments`.
        arms: Name to arm.
        reference: The arm that the others are compared with.
        folder: Name of the runs' folder.
    """
    plan = make_plan(arguments, folder)
    benchmark, source = held_out(arguments)
    conditions = {}
    for name, arm in arms.items():
        model = trained(plan, name, arm)
        model.to(choose_device(arguments.device))
        conditions[name] = score_arm(model, benchmark, arguments)
    return {
        "source": source,
        "questions": len(benchmark.examples),
        "start": arguments.start,
        "base": arguments.base,
        "recipes": [Path(file).name for file in arguments.recipes],
        "steps": arguments.steps,
        "seed": arguments.seed,
        "arms": describe(arms),
        **summarize(conditions, reference, arguments.seed),
    }


def score_arm(model: Any, benchmark: Benchmark, arguments: argparse.Namespace) -> Scores:
    """Recall at each cut-off, and loss and answers from the documents that the model is to read."""
    k = min(model.config.retrieval_top_k, arguments.pool_size)
    folder = memory_folder(arguments.runs / "memories", model, benchmark.documents)
    ranked, scores = score_pools(
        model, benchmark, [k], arguments.max_new_tokens, arguments.batch_size, folder
    )
    found = {name: values for name, values in scores[k].items() if name != RECALL}
    pairs = [(row, e.positives) for row, e in zip(ranked, benchmark.examples, strict=True) if e.positives]
    if pairs:
        rows, positives = zip(*pairs, strict=True)
        ranking = score_ranking(rows, positives, [cut for cut in CUTS if cut <= k])
        found |= {name: values for name, values in ranking.items() if name.startswith("recall")}
    return found


def render_arms(result: Mapping[str, Any]) -> str:
    """Setting and tables of a comparison, in Markdown without a title."""
    recipes = ", ".join(result["recipes"]) or "the shipped tiny rows and small fields"
    start = Path(result["start"]).name if result["start"] else f"a new model over {result['base']}"
    note = (
        f"From {start}, {result['steps']} optimizer steps a stage with {recipes}; measured on "
        f"{result['questions']} questions of {result['source']}. Percent (loss: nats a token of the gold "
        f"answer) with 95 % bootstrap intervals over questions, seed {result['seed']}; differences are "
        "paired. One training run an arm: the spread over training seeds is not in the intervals."
    )
    parts = [note, means_table(result, METRICS, "arm"), differences_table(result, METRICS, "arm")]
    return "\n\n".join(parts)


def plot_arms(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A row of pictures for each comparison: retrieval, answers and loss of its arms."""
    from matplotlib.figure import Figure

    rows = sum(len(result["means"]) for result in results.values())
    figure = Figure(figsize=(11, 1 + 0.45 * rows + 0.9 * len(results)), layout="constrained")
    ratios = [len(result["means"]) for result in results.values()]
    grid = figure.subplots(len(results), len(PICTURED), squeeze=False, height_ratios=ratios)
    for line, (title, result) in zip(grid, results.items(), strict=True):
        names = list(result["means"])
        for axes, metric in zip(line, PICTURED, strict=True):
            values = [result["means"][name].get(metric) for name in names]
            if all(values):
                heights, bars = error_bars(values, 1 if metric == LOSS else 100)
                axes.errorbar(heights, range(len(names)), xerr=bars, fmt="o", capsize=3)
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.grid(alpha=0.3)
            axes.tick_params(labelleft=axes is line[0])
            axes.set(xlabel="loss (nats)" if metric == LOSS else f"{metric.replace('_', ' ')} (%)")
        line[0].set_title(title, loc="left", fontsize="medium")
    figure.savefig(path, dpi=150)
