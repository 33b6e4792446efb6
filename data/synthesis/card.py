"""The dataset card of a synthesis, and its way to the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .counts import Counts
from .report import summary, table, total_progress

SHARED_FILES = ("README.md", "synthesis.json", "report.*", "data/*")

_CARD = """---
license: {license}
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

# {title}

Training rows for stage `{stage}` of CLaRa (arXiv 2511.18659), made by `clara synthesize`.

- Teacher: {teacher}; prompts version {prompts}.
- {summary}

{table}

## Rows

{rows}

Everything but the documents was written by a language model and checked by rules and by the same model;
errors remain. The documents keep the licence of their source.
"""

ROWS = {
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


def write_card(folder: str | Path, counts: Counts, manifest: Mapping[str, Any], form: str) -> None:
    """Writes the card of a pretraining synthesis as `README.md`.

    Args:
        folder: the synthesis' output folder.
        counts: what it yielded.
        manifest: what it was made with.
        form: "jsonl" or "parquet".
    """
    text = card("pretraining", manifest, form, summary(counts, total_progress(folder)), table(counts))
    (Path(folder) / "README.md").write_text(text, encoding="utf-8")


def card(stage: str, manifest: Mapping[str, Any], form: str, said: str, shown: str) -> str:
    """Returns the text of a card; the licence is left as `other`, because it is that of the documents."""
    return _CARD.format(
        license="other",
        stage=stage,
        form=form,
        title=f"Synthetic {stage.replace('_', ' ')} data",
        teacher=manifest.get("teacher", "unknown"),
        prompts=manifest.get("prompt_version", "unknown"),
        summary=said,
        table=shown,
        rows=ROWS[stage],
    )


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
