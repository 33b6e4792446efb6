"""The upload of an assembled folder to the Hub, a model's or a Space's, in one commit."""

import re
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import HfApi

# The Space's variable that names the model; its app.py reads it.
MODEL_VARIABLE = "CLARA_MODEL"
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*[A-Za-z0-9]")
# Files of an earlier publication that this one may not have; memories and whatever else lies there stay.
REPLACED = ("model*.safetensors", "model.safetensors.index.json", "*_clara.py")


def check_repo_id(repo_id: str, argument: str = "--repo") -> None:
    """Raises a ValueError if a repository's name, given by `argument`, is not ORG/NAME or is a folder."""
    if not REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id or len(repo_id) > 96:
        raise ValueError(f"`{argument}` must be ORG/NAME, got {repo_id!r}.")
    if Path(repo_id).exists():
        raise ValueError(f"`{argument}` {repo_id} is a path on this machine: name a repository, ORG/NAME.")


def upload_model(folder: Path, repo_id: str, private: bool = False, message: str | None = None) -> str:
    """Makes the repository if need be and uploads the folder.

    The token is the one that huggingface_hub finds (`hf auth login`, or HF_TOKEN); it is never an argument.

    Args:
        folder: What `write_model` and the card made.
        repo_id: `ORG/NAME`.
        private: Make the repository private. One that is public already is refused, and nothing is sent.
        message: Of the commit.

    Returns:
        The address of the commit.

    Raises:
        ValueError: If `private` is asked for and the repository is public.
    """
    api = HfApi()
    repo = _make_repo(api, repo_id, "model", private)
    return _send(api, repo, folder, message or "Publish the model", REPLACED)


def upload_space(folder: Path, repo_id: str, model: str, private: bool = False) -> str:
    """Makes the Space if need be, names its model among its variables and uploads the folder.

    Arguments, result and errors are those of `upload_model`; `model` is the Hub id of the model it shows.
    """
    api = HfApi()
    repo = _make_repo(api, repo_id, "space", private, space_sdk="gradio")
    api.add_space_variable(repo_id, MODEL_VARIABLE, model)
    return _send(api, repo, folder, "Publish the page", ["*_clara.py"])


def _make_repo(api: HfApi, repo_id: str, repo_type: str, private: bool, **options: str) -> dict[str, str]:
    """Makes a repository if need be; returns what names it in every call."""
    repo = {"repo_id": repo_id, "repo_type": repo_type}
    api.create_repo(**repo, private=private or None, exist_ok=True, **options)
    if private and not api.repo_info(**repo).private:
        raise ValueError(
            f"`--private` was asked for, but {repo_id} is there already and public: nothing was sent. Change "
            "its visibility on the Hub, or leave `--private` out."
        )
    return repo


def _send(api: HfApi, repo: dict[str, str], folder: Path, message: str, replaced: Iterable[str]) -> str:
    """Uploads a folder in one commit, in the place of the files that match; the commit's address."""
    commit = api.upload_folder(
        **repo, folder_path=folder, commit_message=message, delete_patterns=list(replaced)
    )
    return str(getattr(commit, "commit_url", commit))
