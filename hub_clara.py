"""A stored corpus memory on the Hugging Face Hub, as a dataset repository."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from .manifest_clara import Manifest
from .storage_clara import FILE_PATTERNS

CARD = """---
tags:
- clara
- corpus-memory
configs:
- config_name: default
  data_files: passages-*.parquet
---

# Corpus memory

{passages} passages, each with {tokens} memory tokens of width {width} ({dtype}), made by a CLaRa compressor.

- base model: {base}
- fingerprint of compressor, memory tokens and base: `{fingerprint}`

```python
memory = model.load_memory("{repo_id}")
answer = model.generate("question", memory)
```

Only the model whose fingerprint this is can read the memories; loading with another one is refused.
"""


def download_store(
    repo_id: str, revision: str | None, token: str | bool | None, cache_dir: str | None
) -> Path:
    """Downloads the store in a dataset repository into the Hub cache, or finds it there.

    Raises:
        FileNotFoundError: If `repo_id` is neither a folder nor a repository that can be reached.
    """
    try:
        folder = snapshot_download(
            repo_id,
            repo_type="dataset",
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            allow_patterns=list(FILE_PATTERNS),
        )
    except (HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError) as error:
        raise FileNotFoundError(
            f"{repo_id!r} is neither a folder nor a dataset repository that can be reached: {error}"
        ) from error
    return Path(folder)


def write_card(folder: Path, repo_id: str, manifest: Manifest) -> None:
    """Writes the dataset card of a store."""
    base = manifest.base or {}
    name, revision = base.get("name") or "unknown", base.get("revision")
    card = CARD.format(
        passages=manifest.num_passages,
        tokens=manifest.num_memory_tokens,
        width=manifest.hidden_size,
        dtype=manifest.dtype,
        base=f"{name} at {revision}" if revision else name,
        fingerprint=manifest.fingerprint,
        repo_id=repo_id,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def upload_store(
    folder: Path,
    repo_id: str,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    commit_message: str | None,
) -> str:
    """Uploads a store's folder in one commit, which also removes shards of an earlier store there.

    Returns:
        The address of the commit.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        repo_type="dataset",
        revision=revision,
        commit_message=commit_message or "Upload corpus memory",
        allow_patterns=[*FILE_PATTERNS, "README.md"],
        delete_patterns=list(FILE_PATTERNS[1:]),
    )
