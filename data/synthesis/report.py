"""The report of a synthesis: a table, a picture and samples to read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .counts import Counts, KindCounts, mean
from .store import TOTALS


def write_report(folder: str | Path, counts: Counts, manifest: Mapping[str, Any]) -> None:
    """Writes `report.json` (all counts), `report.md` (table and samples) and `report.png` (the picture).

    Args:
        folder: the synthesis' output folder.
        counts: what it yielded.
        manifest: what it was made with.
    """
    folder = Path(folder)
    totals = total_progress(folder)
    kinds = {kind: vars(kind_counts) for kind, kind_counts in counts.kinds.items()}
    content = {"manifest": dict(manifest), "totals": totals, **vars(counts), "kinds": kinds}
    (folder / "report.json").write_text(
        json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    parts = [
        f"# Synthesis report\n\n{summary(counts, totals)}",
        table(counts),
        _reasons(counts),
        _samples(counts),
    ]
    (folder / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    _picture(counts, folder / "report.png")


def total_progress(folder: str | Path) -> dict[str, int]:
    """Sums the progress files of all ranks: items, accepted, calls, prompt_tokens, completion_tokens."""
    totals = dict.fromkeys(TOTALS, 0)
    for file in sorted((Path(folder) / "progress").glob("*.json")):
        progress = json.loads(file.read_text(encoding="utf-8"))
        for name in TOTALS:
            totals[name] += progress[name]
    return totals


def summary(counts: Counts, totals: Mapping[str, int]) -> str:
    """Says the yield and the cost in two sentences."""
    share = counts.accepted / counts.documents if counts.documents else 0.0
    calls = totals["calls"] / counts.documents if counts.documents else 0.0
    return (
        f"{counts.accepted} of {counts.documents} passages ({share:.1%}) yielded at least one signal. "
        f"{totals['calls']} calls ({calls:.1f} a passage) read {totals['prompt_tokens']} tokens and wrote "
        f"{totals['completion_tokens']}."
    )


def table(counts: Counts) -> str:
    """Returns the Markdown table of yields."""
    lines = [
        "| signal | passages asked | teacher accepted | after gates | items | items a passage "
        "| words of a question | words of an answer or paraphrase | rounds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(kind, kind_counts) for kind, kind_counts in counts.kinds.items() if kind_counts.documents]
    return "\n".join(lines)


def _row(kind: str, counts: KindCounts) -> str:
    each = counts.items / counts.accepted if counts.accepted else 0.0
    question = f"{mean(counts.question_words):.1f}" if counts.question_words else "–"
    return (
        f"| {kind} | {counts.documents} | {counts.generated} | {counts.accepted} | {counts.items} "
        f"| {each:.2f} | {question} | {mean(counts.answer_words):.1f} | {mean(counts.rounds):.2f} |"
    )


def _reasons(counts: Counts) -> str:
    """Returns every reason of rejection with its counts."""
    lines = ["## Rejected, by reason", "", "| signal | what | reason | count |", "|---|---|---|---|"]
    lines += [
        f"| – | passage not sent | {reason} | {count} |" for reason, count in counts.not_sent.most_common()
    ]
    for kind, kind_counts in counts.kinds.items():
        for what, counter in (
            ("passage", kind_counts.documents_rejected),
            ("pair", kind_counts.pairs_rejected),
        ):
            lines += [f"| {kind} | {what} | {reason} | {count} |" for reason, count in counter.most_common()]
    return "\n".join(lines)


def _samples(counts: Counts) -> str:
    """Returns the kept outcomes as text to read."""
    parts = ["## Samples: accepted"] + [_sample(row) for row in counts.samples]
    return "\n\n".join(parts + ["## Samples: nothing accepted"] + [_sample(row) for row in counts.refused])


def _sample(row: Mapping[str, Any]) -> str:
    lines = [f"**{row['id']}** {row['reason']}", "", f"> {row['document']}".replace("\n", "\n> "), ""]
    for signal in row["signals"]:
        reason = row["reasons"].get(signal["kind"])
        lines.append(f"- {signal['kind']}: {reason or 'accepted'}")
        lines += [f"  - {pair['question']} → {pair['answer']}" for pair in signal["pairs"]]
        lines += [f"  - {signal['text']}"] if signal["text"] else []
    return "\n".join(lines)


def _picture(counts: Counts, path: Path) -> None:
    """Draws yield, pairs a passage, lengths, rounds and reasons."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7), layout="constrained")
    axes = figure.subplots(2, 3).flat
    used = {kind: kind_counts for kind, kind_counts in counts.kinds.items() if kind_counts.documents}
    for name, shift in (("documents", -0.25), ("generated", 0.0), ("accepted", 0.25)):
        heights = [getattr(kind_counts, name) for kind_counts in used.values()]
        axes[0].bar([x + shift for x in range(len(used))], heights, 0.25, label=name)
    axes[0].set(title="yield (passages)", xticks=range(len(used)), xticklabels=list(used))
    axes[0].legend(loc="lower right")
    questions = {kind: kind_counts for kind, kind_counts in used.items() if kind != "paraphrase"}
    _histograms(axes[1], {k: c.per_document for k, c in questions.items()}, "accepted pairs a passage")
    _histograms(axes[2], {k: c.rounds for k, c in used.items()}, "rounds (attempts)")
    _histograms(axes[3], {k: c.question_words for k, c in questions.items()}, "words of a question")
    lengths = {k: c.answer_words for k, c in used.items()} | {"document": counts.document_words}
    _histograms(axes[4], lengths, "words of an answer, paraphrase, document")
    reasons: Counter = Counter(counts.not_sent)
    for kind_counts in used.values():
        reasons += kind_counts.documents_rejected + kind_counts.pairs_rejected
    most = reasons.most_common(12)[::-1]
    axes[5].barh([reason for reason, _ in most], [count for _, count in most])
    axes[5].set(title="rejected passages and pairs, by reason")
    figure.savefig(path, dpi=100)


def _histograms(axis: Any, counters: Mapping[str, Counter], title: str) -> None:
    """Draws one line a counter over its sorted values."""
    for name, counter in counters.items():
        values = sorted(counter)
        axis.plot(values, [counter[value] for value in values], marker="o", markersize=3, label=name)
    axis.set(title=title, ylabel="count")
    if counters:
        axis.legend()
