"""Measured results as the Hub shows them, out of the reports that `clara evaluate` writes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ..evaluation.tables import markdown_table, percent

REPORT = "report.json"
BENCHMARKS = {
    "nq": ("Natural Questions", "google-research-datasets/nq_open"),
    "hotpotqa": ("HotpotQA", "hotpotqa/hotpot_qa"),
    "musique": ("MuSiQue", "dgslibisey/MuSiQue"),
    "2wiki": ("2WikiMultihopQA", "xanhho/2WikiMultihopQA"),
}
SETTINGS = ("normal", "oracle")
METRICS = {"exact_match": "EM", "token_f1": "F1", "cover_exact_match": "cover EM"}
CONTROL = "clara_shuffled"  # strangers' memories: no system that anyone would use
NEEDED = ("benchmark", "setting", "questions", "documents", "systems", "model", "source")

Report = Mapping[str, Any]


def read_reports(paths: Iterable[str | Path], fingerprint: str) -> list[Report]:
    """Reads reports of one model.

    Args:
        paths: `report.json` files, or folders that hold some at any depth.
        fingerprint: Identity of the model that is published.

    Raises:
        FileNotFoundError: If a path holds no report.
        ValueError: If a report is damaged, of another model, or one of two on the same benchmark and setting.
    """
    files = [file for path in paths for file in _files(Path(path))]
    reports: dict[tuple[str, str], Report] = {}
    for file in files:
        report = _read(file)
        if report["model"] != fingerprint:
            raise ValueError(
                f"{file} was measured on another model (fingerprint {report['model'][:12]}…, this one is "
                f"{fingerprint[:12]}…): evaluate this checkpoint, or leave the report out."
            )
        key = (report["benchmark"], report["setting"])
        if key in reports:
            raise ValueError(f"{file} is a second report on {key[0]} {key[1]}: name one of them.")
        reports[key] = report
    return list(reports.values())


def _files(path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(path.rglob(REPORT))
    if not found:
        raise FileNotFoundError(f"`results` {path} holds no {REPORT} of `clara evaluate`.")
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        missing = [key for key in NEEDED if key not in report]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is no report of `clara evaluate`, or it is damaged: {error}") from error
    if missing:
        raise ValueError(f"{file} lacks {missing}: evaluate again with this version's `clara evaluate`.")
    return report


def results_table(reports: Sequence[Report]) -> str:
    """A row for each benchmark, setting and system that was measured, but for the control."""
    by_key = {(report["benchmark"], report["setting"]): report for report in reports}
    header = ["benchmark", "setting", "questions", "system", *METRICS.values(), "recall", "tokens read"]
    rows = []
    for name, (title, _) in BENCHMARKS.items():
        for setting in SETTINGS:
            report = by_key.get((name, setting))
            if report is not None:
                rows += [[title, setting, str(report["questions"]), *row] for row in _systems(report)]
    return markdown_table(header, rows)


def _systems(report: Report) -> Iterable[list[str]]:
    for system, row in report["systems"].items():
        if system == CONTROL:
            continue
        metrics = row["metrics"]
        recalls = [name for name in metrics if name.startswith("recall@")]
        last = max(recalls, key=lambda name: int(name.partition("@")[2]), default="")
        found = f"{percent(metrics[last])} @{last.partition('@')[2]}" if last else "–"
        shown = [percent(metrics.get(metric)) for metric in METRICS]
        yield [system, *shown, found, f"{row['tokens_read']:.0f}"]


def model_index(reports: Sequence[Report], system: str = "clara") -> list[EvalResult]:
    """The results of `system`, the way in which the model reads, for the head of the card."""
    results = []
    for report in reports:
        if system not in report["systems"]:
            raise ValueError(f"the report on {report['benchmark']} has no system {system!r}.")
        title, dataset = BENCHMARKS[report["benchmark"]]
        results += [
            EvalResult(
                task_type="question-answering",
                task_name="Retrieval-augmented question answering",
                dataset_type=dataset,
                dataset_name=f"{title} ({report['setting']}, {report['questions']} questions)",
                dataset_config=report["setting"],  # or the Hub's writer would merge a benchmark's settings
                metric_type=metric,
                metric_name=name,
                metric_value=round(100 * report["systems"][system]["metrics"][metric]["mean"], 2),
            )
            for metric, name in METRICS.items()
        ]
    return results
