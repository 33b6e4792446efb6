import logging
import shutil

import pytest
import torch
from clara import hub_clara
from clara.memory_clara import CorpusMemory
from conftest import DOCUMENTS, make_model
from hub_server import serve_hub
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalEntryNotFoundError
from store_helpers import make_memory, same

STORE_FILES = [
    "memory-*.safetensors",
    "passages-*.parquet",
    "deleted-*.safetensors",
    "corpus_index.json",
    "index-*.faiss",
    "sketch-*.safetensors",
]


class FakeHub:
    """Stands in for the Hub: keeps what is uploaded in a folder and notes each call."""

    def __init__(self, root):
        self.root, self.calls = root, []

    def create_repo(self, api, repo_id, **arguments):
        self.calls.append(("create_repo", api.token, repo_id, arguments))
        return type("Url", (), {"repo_id": repo_id if "/" in repo_id else f"me/{repo_id}"})

    def create_branch(self, api, repo_id, **arguments):
        self.calls.append(("create_branch", api.token, repo_id, arguments))

    def upload_folder(self, api, folder_path, **arguments):
        self.calls.append(("upload_folder", api.token, arguments.pop("repo_id"), arguments))
        shutil.copytree(folder_path, self.root, dirs_exist_ok=True)
        return "https://hub/commit"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    for name in ("create_repo", "create_branch", "upload_folder"):
        method = getattr(fake, name)
        monkeypatch.setattr(HfApi, name, lambda api, *a, _method=method, **k: _method(api, *a, **k))
    return fake


def test_push_uploads_a_store_that_loads(hub, tmp_path):
    memory = make_memory(5)
    assert memory.push_to_hub("me/corpus", private=True, token="hf_x") == "https://hub/commit"
    create, upload = hub.calls
    assert create == (
        "create_repo",
        "hf_x",
        "me/corpus",
        {"repo_type": "dataset", "private": True, "exist_ok": True},
    )
    assert upload[:3] == ("upload_folder", "hf_x", "me/corpus")
    assert upload[3]["repo_type"] == "dataset" and upload[3]["revision"] is None
    assert upload[3]["commit_message"] == "Upload corpus memory"
    assert upload[3]["delete_patterns"] == STORE_FILES
    assert ".corpus_memory.lock" not in upload[3]["allow_patterns"]
    assert same(CorpusMemory.from_pretrained(hub.root), memory)
    card = (hub.root / "README.md").read_text()
    assert card.startswith("---\n") and "5 passages, each with 2 memory tokens of width 4 (float32)" in card
    assert 'load_memory("me/corpus")' in card and "base model: tiny\n" in card


def test_push_to_a_branch_and_a_name_without_owner(hub):
    make_memory(1).push_to_hub("corpus", revision="v2", commit_message="new")
    assert [call[0] for call in hub.calls] == ["create_repo", "create_branch", "upload_folder"]
    assert hub.calls[1][2:] == ("me/corpus", {"branch": "v2", "repo_type": "dataset", "exist_ok": True})
    assert hub.calls[2][2] == "me/corpus" and hub.calls[2][3]["revision"] == "v2"
    assert hub.calls[2][3]["commit_message"] == "new"


def test_push_does_not_change_where_the_memory_is_stored(hub, tmp_path):
    memory = make_memory(3)
    memory.save_pretrained(tmp_path / "store")
    memory.append(make_memory(1, first=3))
    memory.push_to_hub("me/corpus")
    memory.save_pretrained(tmp_path / "store")
    assert len(CorpusMemory.from_pretrained(tmp_path / "store").document_ids) == 4
    assert len(list((tmp_path / "store").glob("memory-*"))) == 2


def test_load_from_a_repository(tmp_path, monkeypatch):
    make_memory(4).save_pretrained(tmp_path)
    calls = []
    monkeypatch.setattr(
        hub_clara, "snapshot_download", lambda *a, **k: (calls.append((a, k)), str(tmp_path))[1]
    )
    memory = CorpusMemory.from_pretrained("me/corpus", "f", revision="v2", token="hf_x", cache_dir="there")
    assert same(memory, make_memory(4))
    patterns = ["corpus_memory.json", *STORE_FILES]
    expected = {"repo_type": "dataset", "revision": "v2", "token": "hf_x", "cache_dir": "there"}
    assert calls == [(("me/corpus",), {**expected, "allow_patterns": patterns})]


def test_load_from_the_real_cache_offline(tmp_path, monkeypatch):
    snapshot = tmp_path / "datasets--me--corpus" / "snapshots" / ("a" * 40)
    blobs = tmp_path / "datasets--me--corpus" / "blobs"
    make_memory(4).save_pretrained(blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.glob("[cmp]*"):
        (snapshot / path.name).symlink_to(path)
    refs = tmp_path / "datasets--me--corpus" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(CorpusMemory.from_pretrained("me/corpus", cache_dir=tmp_path), make_memory(4))


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("offline")])
def test_what_cannot_be_reached_is_named(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(hub_clara, "snapshot_download", fail)
    with pytest.raises(FileNotFoundError, match="'me/corpus' is neither a folder nor a dataset repository"):
        CorpusMemory.from_pretrained("me/corpus")


def test_a_path_that_is_no_folder_is_no_repository(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        CorpusMemory.from_pretrained(tmp_path / "a" / "b")


def test_a_memory_goes_to_a_hub_and_comes_back_by_its_name(shared_model, base, tmp_path, monkeypatch, caplog):
    """Over HTTP, to a Hub on the loopback: one commit in a dataset repository, then `load_memory`."""
    memory = shared_model.build_memory(DOCUMENTS, show_progress=False)
    token = "hf_" + "s" * 34
    with serve_hub(monkeypatch, token) as server, caplog.at_level(logging.DEBUG):
        address = memory.push_to_hub("org/notes", private=True)
        repository = server.repositories["datasets", "org/notes"]
        assert repository.private and len(repository.commits) == 1
        assert address.endswith(f"/commit/{repository.sha}") and "README.md" in repository.files
        loaded = shared_model.load_memory("org/notes", cache_dir=str(tmp_path))
        assert loaded.document_ids == memory.document_ids and torch.equal(loaded[:], memory[:])
        assert shared_model.retrieve("Who found Titan?", loaded, 2).indices
        with pytest.raises(ValueError, match="another compressor or base"):
            make_model(base, compression_rate=32).load_memory("org/notes", cache_dir=str(tmp_path))
        with pytest.raises(FileNotFoundError, match="'org/other' is neither a folder nor a dataset"):
            shared_model.load_memory("org/other", cache_dir=str(tmp_path))
        shared_model.build_memory(DOCUMENTS[:1], show_progress=False).push_to_hub("org/notes")
        again = shared_model.load_memory("org/notes", cache_dir=str(tmp_path))
        assert len(again) == 1 and len(repository.commits) == 2
    assert token not in caplog.text and server.tokens == {f"Bearer {token}"}
