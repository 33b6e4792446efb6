"""The upload of an assembled folder to the Hub, in one commit."""

import re
from pathlib import Path

from huggingface_hub import HfApi

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*[A-Za-z0-9]")
# Files of an earlier publication that this one may not have; memories and whatever else lies there stay.
REPLACED = ("model*.safetensors", "model.safetensors.index.json", "*_clara.py", ".eval_results/*.yaml")


def check_repo_id(repo_id: str) -> None:
    """Checks a repository's name before anything is done.

    Raises:
        ValueError: If it is not `ORG/NAME`, or is a folder here.
    """
    if not REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id or len(repo_id) > 96:
        raise ValueError(f"`--repo` must be ORG/NAME, got {repo_id!r}.")
    if Path(repo_id).exists():
        raise ValueError(f"`--repo` {repo_id} is a path on this machine: name a repository, ORG/NAME.")


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
    api.create_repo(repo_id, private=private or None, exist_ok=True)
    if private and not api.model_info(repo_id).private:
        raise ValueError(
            f"`--private` was asked for, but {repo_id} is there already and public: nothing was sent. Change "
            "its visibility on the Hub, or leave `--private` out."
        )
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message=message or "Publish the model",
        delete_patterns=list(REPLACED),
    )
    return str(getattr(commit, "commit_url", commit))
