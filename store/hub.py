"""A store on the Hugging Face Hub, as a dataset repository that holds one version of the table."""

import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from .store import CorpusStore

CARD = """---
tags: [clara, corpus-memory]
---
# Corpus store

{passages} passages with memories of width {width} ({dtype}), made by a CLaRa compressor over {base}.
Only the model whose fingerprint is `{fingerprint}` can read it:

```python
from clara.store.hub import from_hub

store = from_hub("{repo_id}")
answer = model.generate("question", store)
```
"""
FOLDERS = ("data/*", "_versions/*", "_indices/*", "_transactions/*", "_deletions/*")


def push(store: Any, repo_id: str, private: bool | None = None, token: str | bool | None = None) -> str:
    """Uploads the version that a store reads, with a card, in one commit; files of an earlier upload go.

    Args:
        store: A `CorpusStore`.
        repo_id: `owner/name`; made if need be.
        private: Whether a new repository is private.
        token: Of the Hub.

    Returns:
        The address of the commit.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        store._dataset.deep_clone(str(folder), store.version)
        card = CARD.format(
            passages=len(store),
            width=store.hidden_size,
            dtype=store.dtype,
            base=(store.base or {}).get("name") or "an unknown base",
            fingerprint=store.fingerprint,
            repo_id=repo_id,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            repo_type="dataset",
            commit_message="Upload corpus store",
            allow_patterns=[*FOLDERS, "README.md"],
            delete_patterns=list(FOLDERS),
        )


def from_hub(
    repo_id: str,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | None = None,
    **options: Any,
) -> CorpusStore:
    """Downloads a store into the Hub's cache and opens it for reading.

    Args:
        repo_id: `owner/name`.
        revision: Branch, tag or commit.
        token: Of the Hub.
        cache_dir: Where the Hub's files are kept.
        **options: Of `CorpusStore.open`, such as `fingerprint`.

    Raises:
        FileNotFoundError: If the repository cannot be reached or holds no store.
    """
    try:
        folder = snapshot_download(
            repo_id,
            repo_type="dataset",
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            allow_patterns=list(FOLDERS),
        )
    except (HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError) as error:
        raise FileNotFoundError(
            f"{repo_id!r} is no dataset repository that can be reached: {error}"
        ) from error
    return CorpusStore.open(folder, create=False, **options)
