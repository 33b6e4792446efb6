"""What a synthesis yielded: counts, the report with samples and a picture, the data set card."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..writers import whole_file
from .machine import KINDS, DocumentOutcome, Signal
from .rank import TOTALS
from .texts import words

MANIFEST = "synthesis.json"
SAMPLES = 12
SHARED_FILES = ("README.md", MANIFEST, "report.*", "data/*")

_CARD = """---
license: other
task_categories:
- question-answering
- text-generation
tags:
- retrieval-augmented-generation
- synthetic
- clara
configs:
- config_name: {stage}
  data_files:
  - split: train
    path: data/*.{form}
---

# Synthetic {name} data

Training rows for stage `{stage}` of CLaRa (arXiv 2511.18659), made by `clara synthesize`.

- Teacher: {teacher}; prompts version {prompt_version}.
- {said}

{shown}

## Rows

{rows}

Everything but the documents was written by a language model and checked by rules and by the same model;
errors remain. The documents keep the licence of their source.
"""

_ROWS = {
    "pretraining": (
        '`data_type` ("qa" or "paraphrase"), `question` (list), `answers` (list of the same length, or the '
        "paraphrase), `docs` (one document), `id`. A document has one row for each kind of its signals."
    ),
    "instruction_tuning": (
        "`question`, `docs` (best first), `golden_answers`, `answer` (the teacher's, the training target), "
        "`pos_index`."
    ),
    "end_to_end": "`question`, `docs` (the candidate pool), `golden_answers`, `answer`, `pos_index`.",
}


@dataclass
class KindCounts:
    """Counts of one kind of signal."""

    documents: int = 0  # documents for which it was asked
    generated: int = 0  # documents for which the teacher's own checks accepted it
    accepted: int = 0  # documents that the gates left it, too
    items: int = 0  # accepted pairs or paraphrases
    documents_rejected: Counter = field(default_factory=Counter)  # documents without it, by reason
    pairs_rejected: Counter = field(default_factory=Counter)  # dropped pairs, by reason
    rounds: Counter = field(default_factory=Counter)  # documents by coverage rounds, or attempts
    question_words: Counter = field(default_factory=Counter)  # pairs by length
    answer_words: Counter = field(default_factory=Counter)  # likewise; paraphrases by length

    def add(self, before: Signal, after: Signal) -> None:
        """Counts one signal as the teacher made it and as the gates left it."""
        self.documents += 1
        self.generated += before.accepted
        self.accepted += after.accepted
        self.rounds[before.rounds] += 1
        self.pairs_rejected.update(after.rejected)
        if after.reason:
            self.documents_rejected[after.reason] += 1
        texts = [after.text] if after.text else [pair.answer for pair in after.pairs]
        self.items += len(texts)
        self.answer_words.update(len(words(text)) for text in texts)
        self.question_words.update(len(words(pair.question)) for pair in after.pairs)


@dataclass
class Counts:
    """Counts of a whole synthesis, in bounded memory."""

    documents: int = 0  # passages seen
    accepted: int = 0  # passages with at least one accepted signal
    kinds: dict[str, KindCounts] = field(default_factory=lambda: {kind: KindCounts() for kind in KINDS})
    samples: list[dict[str, Any]] = field(default_factory=list)  # the first accepted outcomes, to read
    refused: list[dict[str, Any]] = field(default_factory=list)  # the first refused ones, to read

    def add(self, before: DocumentOutcome, after: DocumentOutcome) -> None:
        """Counts one document as the teacher made it and as the gates left it."""
        self.documents += 1
        self.accepted += after.accepted
        for made, left in zip(before.signals, after.signals, strict=True):
            self.kinds[made.kind].add(made, left)
        kept = self.samples if after.accepted else self.refused
        if len(kept) < SAMPLES:
            reasons = {signal.kind: signal.reason for signal in after.signals if signal.reason}
            kept.append({**asdict(after if after.accepted else before), "reasons": reasons})


def write_report(folder: str | Path, counts: Counts) -> str:
    """Writes `report.json` (all counts), `report.md` (table and samples) and `report.png` (the picture).

    Returns:
        The yield and the cost in two sentences.
    """
    folder, totals = Path(folder), total_progress(folder)
    content = {"manifest": read_manifest(folder), "totals": totals, **vars(counts)}
    (folder / "report.json").write_text(
        json.dumps(content, indent=1, ensure_ascii=False, default=vars) + "\n", encoding="utf-8"
    )
    share = counts.accepted / counts.documents if counts.documents else 0.0
    calls = totals["calls"] / counts.documents if counts.documents else 0.0
    said = (
        f"{counts.accepted} of {counts.documents} passages ({share:.1%}) yielded at least one signal. "
        f"{totals['calls']} calls ({calls:.1f} a passage) read {totals['prompt_tokens']} tokens and wrote "
        f"{totals['completion_tokens']}."
    )
    parts = [f"# Synthesis report\n\n{said}", table(counts), _reasons(counts), "## Samples: accepted"]
    parts += [*map(_sample, counts.samples), "## Samples: nothing accepted", *map(_sample, counts.refused)]
    (folder / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    _picture(counts, folder / "report.png")
    return said


def total_progress(folder: str | Path) -> dict[str, int]:
    """Sums the progress files of all ranks: items, accepted, calls, prompt_tokens, completion_tokens."""
    files = sorted((Path(folder) / "progress").glob("*.json"))
    rows = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return {name: sum(row[name] for row in rows) for name in TOTALS}


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Reads what an output folder was made with; empty if it does not say so."""
    path = Path(folder) / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_manifest(folder: str | Path, manifest: dict[str, Any]) -> None:
    """Writes what a folder is made with, or checks that it was begun with the same.

    Raises:
        ValueError: naming what differs, if the folder was made with other settings.
    """
    path, there = Path(folder) / MANIFEST, read_manifest(folder)
    wanted = json.loads(json.dumps(manifest))
    for name in sorted(there.keys() | wanted.keys()) if there else ():
        if there.get(name) != wanted.get(name):
            raise ValueError(
                f"`output` {folder} was begun with {name} = {there.get(name)!r}, not "
                f"{wanted.get(name)!r}. Go on with the same settings, or name another folder."
            )
    if not there:
        with whole_file(path) as partial:
            partial.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")


def table(counts: Counts) -> str:
    """Returns the Markdown table of yields."""
    header = (
        "| signal | passages asked | teacher accepted | after gates | items | items a passage "
        "| words of a question | words of an answer or paraphrase | rounds |"
    )
    lines = [header, "|---|---|---|---|---|---|---|---|---|"]
    for kind, found in counts.kinds.items():
        if found.documents:
            each = found.items / found.accepted if found.accepted else 0.0
            question = f"{_mean(found.question_words):.1f}" if found.question_words else "–"
            lines.append(
                f"| {kind} | {found.documents} | {found.generated} | {found.accepted} | {found.items} "
                f"| {each:.2f} | {question} | {_mean(found.answer_words):.1f} | {_mean(found.rounds):.2f} |"
            )
    return "\n".join(lines)


def _mean(counter: Counter) -> float:
    """Returns the mean of the numbers that a counter holds; 0 if it is empty."""
    return sum(value * count for value, count in counter.items()) / max(counter.total(), 1)


def _reasons(counts: Counts) -> str:
    """Returns every reason of rejection with its counts."""
    lines = ["## Rejected, by reason", "", "| signal | what | reason | count |", "|---|---|---|---|"]
    for kind, found in counts.kinds.items():
        for what, counter in (("passage", found.documents_rejected), ("pair", found.pairs_rejected)):
            lines += [f"| {kind} | {what} | {reason} | {count} |" for reason, count in counter.most_common()]
    return "\n".join(lines)


def _sample(row: Mapping[str, Any]) -> str:
    lines = [f"**{row['id']}**", "", f"> {row['document']}".replace("\n", "\n> "), ""]
    for signal in row["signals"]:
        lines.append(f"- {signal['kind']}: {row['reasons'].get(signal['kind'], 'accepted')}")
        lines += [f"  - {pair['question']} → {pair['answer']}" for pair in signal["pairs"]]
        lines += [f"  - {signal['text']}"] if signal["text"] else []
    return "\n".join(lines)


def _picture(counts: Counts, path: Path) -> None:
    """Draws yields, lengths and reasons."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4), layout="constrained")
    yields, lengths, rejected = figure.subplots(1, 3)
    used = {kind: found for kind, found in counts.kinds.items() if found.documents}
    reasons: Counter = Counter()
    for place, (kind, found) in enumerate(used.items()):
        heights = [found.documents, found.generated, found.accepted]
        yields.bar([x + 0.25 * place for x in range(3)], heights, 0.25, label=kind)
        for counter, what in ((found.question_words, "question"), (found.answer_words, "answer")):
            if counter:
                lengths.plot(*zip(*sorted(counter.items()), strict=True), label=f"{kind}, {what}")
        reasons += found.documents_rejected + found.pairs_rejected
    yields.set(title="passages", xticks=range(3), xticklabels=["asked", "teacher accepted", "after gates"])
    lengths.set(title="words of a question, answer, paraphrase")
    for axes in (yields, lengths):
        axes.legend()
    names = [reason for reason, _ in reasons.most_common(12)][::-1]
    rejected.barh(names, [reasons[name] for name in names])
    rejected.set(title="rejected passages and pairs, by reason")
    figure.savefig(path, dpi=100)


def write_card(folder: str | Path, stage: str, form: str, said: str, shown: str = "") -> None:
    """Writes the data set card as `README.md`, with the yield as a sentence and as a table.

    Its licence is `other`, because it is that of the documents.
    """
    made = {"teacher": "unknown", "prompt_version": "unknown", **read_manifest(folder)}
    fields = {"stage": stage, "form": form, "name": stage.replace("_", " "), "rows": _ROWS[stage]}
    text = _CARD.format(**{**made, **fields, "said": said, "shown": shown})
    (Path(folder) / "README.md").write_text(text, encoding="utf-8")


def push_to_hub(folder: str | Path, repo_id: str, private: bool = True) -> str:
    """Uploads rows, card, manifest and report of a finished synthesis; raw outcomes and state stay here.

    Args:
        folder: the synthesis' output folder.
        repo_id: the data set's name, `owner/name`; it is created if it is not there.
        private: whether a new data set is private.

    Returns:
        The address of the commit.

    Raises:
        ValueError: if the folder holds no finished rows.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    if not (folder / "README.md").exists() or not any((folder / "data").glob("*")):
        raise ValueError(
            f"`folder` {folder} holds no finished rows: run `clara synthesize` to its end first."
        )
    api = HfApi()
    api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    commit = api.upload_folder(
        folder_path=folder, repo_id=repo_id, repo_type="dataset", allow_patterns=list(SHARED_FILES)
    )
    return str(commit)
