"""Publish a checkpoint as a model repository on the Hub: assemble, check in a fresh process, upload.

The folder holds the base's weights, the adapters, the processor, the code, the licence and README.md,
rendered from model_card.md with what was measured (`--results`, reports of `clara evaluate`). With
`--dry-run` it is assembled and checked and its files are listed, and nothing is sent.

`--space` publishes a Gradio Space too, the page of `clara app` on this model, as a repository of its own.
Without CHECKPOINT nothing but the Space is published: it shows the model that lies in `--repo` already.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .models import load_model

if TYPE_CHECKING:
    from ..modeling_clara import ClaraForRetrievalGeneration

CARD = "README.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara publish`."""
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", nargs="?", help="folder or Hub id of a CLaRa checkpoint")
    add("--repo", required=True, metavar="ORG/NAME", help="the model repository")
    add("--space", metavar="ORG/NAME", help="the Space's repository, if there is to be one")
    add("--endpoint", action="store_true", help="add handler.py and requirements.txt for Inference Endpoints")
    add("--private", action="store_true", help="make the repositories private")
    add("--dry-run", action="store_true", help="stop before the upload")
    add(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="keep the assembled folder there, the Space's in FOLDER-space",
    )
    add(
        "--results",
        action="append",
        default=[],
        metavar="PATH",
        help="report.json of `clara evaluate`, or a folder of them; may be repeated",
    )
    add(
        "--training-card",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="README.md of a training stage, in order; may be repeated (default: the checkpoint's)",
    )
    add("--dataset", action="append", default=[], metavar="ID", help="data set it was trained on (Hub id)")
    add("--base-model", metavar="ID", help="Hub id of the base, where the checkpoint names none")
    add("--widgets", type=int, default=3, help="example answers in the card, right ones first")
    add("--device", help="such as cpu or cuda:0 (default: the accelerator if there is one)")


def run(arguments: argparse.Namespace) -> None:
    """Assembles, checks, lists and uploads."""
    from ..bases.folders import check_free, complete_folder, list_files

    with tempfile.TemporaryDirectory(prefix="clara-publish-") as temporary:
        parts = plan(arguments, arguments.output or Path(temporary) / "model")
        for _, target, _, _ in parts:
            check_free(target)
        for _, target, fill, _ in parts:
            with complete_folder(target) as folder:
                fill(arguments, folder)
            files = list_files(target)
            for name, size in files.items():
                print(f"{size:>14,}  {name}")
            print(f"{sum(files.values()):>14,}  bytes in {len(files)} files")
        for repo, _, fill, upload in parts:
            if arguments.dry_run:
                checked = "Checked in a fresh process; nothing" if fill is assemble else "Nothing"
                print(f"{checked} was sent to {repo} (--dry-run).")
            else:
                print(f"Published: {upload()}")


def plan(arguments: argparse.Namespace, target: Path) -> list[tuple[str, Path, Callable, Callable]]:
    """The repositories to publish, the model's before the Space's: name, folder, what fills and sends it."""
    from ..hub.upload import check_repo_id, upload_model, upload_space

    repo, space, private = arguments.repo, arguments.space, arguments.private
    check_repo_id(repo)
    parts = []
    if arguments.checkpoint:
        parts.append((repo, target, assemble, partial(upload_model, target, repo, private)))
    if space:
        check_repo_id(space, "--space")
        folder = target.with_name(f"{target.name}-space")
        parts.append((space, folder, assemble_space, partial(upload_space, folder, space, repo, private)))
    if not parts:
        raise ValueError("`CHECKPOINT` is missing: name one, or a `--space` to publish that alone.")
    return parts


def assemble_space(arguments: argparse.Namespace, folder: Path) -> None:
    """Writes the Space into an empty folder."""
    from ..hub.folder import base_id, check_no_local_paths, write_space

    model = load_model(arguments.checkpoint, arguments.device)[0] if arguments.checkpoint else None
    if model is not None:  # the sample's memory names the base as the published model does
        model.config.base_model_name_or_path = arguments.base_model or base_id(
            model.config.base_model_name_or_path
        )
    write_space(folder, arguments.repo, model)
    check_no_local_paths(folder, [])


def assemble(arguments: argparse.Namespace, folder: Path) -> None:
    """Writes everything into an empty folder and checks it in a fresh process."""
    from ..hub.check import check_folder
    from ..hub.folder import check_no_local_paths, write_endpoint, write_model

    model, trained = load_model(arguments.checkpoint, arguments.device)
    if not trained:
        raise ValueError(f"`CHECKPOINT` {arguments.checkpoint} is a plain causal LM, not a CLaRa checkpoint.")
    write_model(model, folder, arguments.base_model)
    if arguments.endpoint:
        write_endpoint(folder)
    write_card(arguments, model, folder)
    check_no_local_paths(folder, [arguments.checkpoint] if Path(arguments.checkpoint).exists() else [])
    check_folder(folder, model)


def write_card(arguments: argparse.Namespace, model: ClaraForRetrievalGeneration, folder: Path) -> None:
    """Writes README.md from what was measured."""
    from ..evaluation.language_models import ClaraModel
    from ..hub.card import read_datasets, render_model_card, section
    from ..hub.examples import make_examples, model_facts
    from ..hub.folder import TEMPLATE
    from ..hub.results import read_reports

    reports = read_reports(arguments.results, ClaraModel(model).fingerprint())
    own = Path(arguments.checkpoint, CARD)
    text = own.read_text(encoding="utf-8") if own.is_file() else ""
    rendered = section(text, "results") is not None
    cards = [file.read_text(encoding="utf-8") for file in arguments.training_card]
    cards = cards or ([text] if text and not rendered else [])
    card = render_model_card(
        TEMPLATE.read_text(encoding="utf-8"),
        arguments.repo,
        model_facts(model, arguments.base_model),
        reports,
        make_examples(model, arguments.widgets),
        cards,
        arguments.dataset or [name for each in cards for name in read_datasets(each)],
        text if rendered else "",
    )
    (folder / CARD).write_text(card, encoding="utf-8")
