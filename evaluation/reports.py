"""From predictions to a table: scores per question, means with bootstrap intervals, paired tests."""

from collections.abc import Mapping, Sequence
from typing import Any

from .benchmarks import Benchmark, Example
from .metrics import score_answers
from .ranking import score_ranking
from .statistics import bootstrap_interval, paired_bootstrap
from .systems import Prediction
from .tables import markdown_table, percent

Scores = dict[str, list[float]]

TITLES = {
    "exact_match": "EM",
    "token_f1": "F1",
    "cover_exact_match": "cover EM",
    "cover_bag_of_tokens": "cover tokens (paper)",
    "mrr": "MRR",
}
COMPARED = ("exact_match", "token_f1", "cover_exact_match", "recall@1", "recall@5")
METHOD = (
    "Percent, with 95 % bootstrap intervals over questions (10,000 resamples, seed {seed}). Recall counts "
    "documents, over the questions that name positives. Differences: paired bootstrap; p: two-sided paired "
    "permutation test."
)


def score_predictions(
    examples: Sequence[Example], predictions: Sequence[Prediction], ks: Sequence[int] = (1, 3, 5)
) -> Scores:
    """Every metric of one system: one value per question.

    Args:
        examples: B questions.
        predictions: B predictions in the same order.
        ks: cut-offs of the ranking metrics.

    Returns:
        Metric name -> values. Those of answers are there if the system read anything, ranking metrics if it
        retrieves, with one value for each question that names positives.

    Raises:
        ValueError: predictions and examples differ in number or order.
    """
    if [example.id for example in examples] != [prediction.id for prediction in predictions]:
        raise ValueError("`predictions` are not those of `examples`: their ids differ.")
    scores = {}
    if any(prediction.tokens_read for prediction in predictions):
        scores = score_answers([p.answer for p in predictions], [example.answers for example in examples])
    pairs = [(p.documents, e.positives) for p, e in zip(predictions, examples, strict=True) if e.positives]
    if pairs and any(prediction.documents for prediction in predictions):
        ranked, positives = zip(*pairs, strict=True)
        scores.update(score_ranking(ranked, positives, ks))
    return scores


def make_report(
    benchmark: Benchmark,
    predictions: Mapping[str, Sequence[Prediction]],
    stored: Mapping[str, float],
    ks: Sequence[int] = (1, 3, 5),
    seed: int = 0,
) -> dict[str, Any]:
    """Scores every system and compares each with the first.

    Args:
        benchmark: its questions were answered.
        predictions: system name -> B predictions.
        stored: system name -> bytes stored per passage.
        ks: cut-offs of the ranking metrics.
        seed: of the bootstrap and the tests.

    Returns:
        The report as JSON values; `to_markdown` renders it.
    """
    scores = {name: score_predictions(benchmark.examples, rows, ks) for name, rows in predictions.items()}
    systems = {
        name: {
            "metrics": {
                metric: {**bootstrap_interval(values, seed=seed), "questions": len(values)}
                for metric, values in scores[name].items()
            },
            "tokens_read": sum(row.tokens_read for row in rows) / len(rows),
            "bytes_per_passage": stored[name],
        }
        for name, rows in predictions.items()
    }
    return {
        "benchmark": benchmark.name,
        "setting": benchmark.setting,
        "questions": len(benchmark.examples),
        "documents": len(benchmark.documents),
        "skipped": list(benchmark.skipped),
        "seed": seed,
        "systems": systems,
        "comparisons": _comparisons(scores, seed),
    }


def to_markdown(report: Mapping[str, Any], command: str) -> str:
    """The report as a page: command, table of systems, table of differences."""
    head = (
        f"# {report['benchmark']}, {report['setting']}: {report['questions']} questions, "
        f"{report['documents']} documents"
    )
    parts = [head, f"    {command}", METHOD.format(seed=report["seed"]), _systems_table(report)]
    if report["comparisons"]:
        parts.append(_comparisons_table(report))
    if report["skipped"]:
        parts.append(f"Left out, no gold answer that can be scored: rows {', '.join(report['skipped'])}.")
    return "\n\n".join(parts) + "\n"


def _comparisons(scores: Mapping[str, Scores], seed: int) -> list[dict[str, Any]]:
    reference, *others = scores
    return [
        {
            "system": name,
            "reference": reference,
            "metric": metric,
            **paired_bootstrap(scores[name][metric], scores[reference][metric], seed=seed),
        }
        for name in others
        for metric in COMPARED
        if metric in scores[name] and metric in scores[reference]
    ]


def _systems_table(report: Mapping[str, Any]) -> str:
    metrics = list(dict.fromkeys(metric for row in report["systems"].values() for metric in row["metrics"]))
    kept = [metric for metric in metrics if not metric.startswith(("precision", "ndcg"))]
    header = ["system", *(TITLES.get(metric, metric) for metric in kept), "tokens read", "bytes per passage"]
    rows = [
        [
            name,
            *(percent(row["metrics"].get(metric)) for metric in kept),
            f"{row['tokens_read']:.0f}",
            f"{row['bytes_per_passage']:.0f}",
        ]
        for name, row in report["systems"].items()
    ]
    return markdown_table(header, rows)


def _comparisons_table(report: Mapping[str, Any]) -> str:
    header = ["system", "against", "metric", "difference", "p"]
    rows = [
        [
            row["system"],
            row["reference"],
            TITLES.get(row["metric"], row["metric"]),
            f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]",
            f"{row['p_value']:.4f}",
        ]
        for row in report["comparisons"]
    ]
    return markdown_table(header, rows)
