import pytest
import torch
from clara.memory_clara import FILES, CorpusMemory
from clara.store import CorpusStore
from clara.store.hub import from_hub
from hub_server import serve_hub
from memory_helpers import make_memory, same

TOKEN = "a-token"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with serve_hub(monkeypatch, TOKEN) as server:
        yield server


def test_a_store_goes_up_and_comes_down(hub, tmp_path):
    store = CorpusStore.open(tmp_path / "s")
    store.append(make_memory(6))
    store.delete(["d2"])
    address = store.push_to_hub("org/notes", private=True)
    repository = hub.repositories["datasets", "org/notes"]
    assert repository.private and len(repository.commits) == 1 and address.endswith(repository.sha)
    card = repository.files["README.md"].decode()
    assert "5 passages" in card and 'from_hub("org/notes")' in card and "`f`" in card
    loaded = from_hub("org/notes", fingerprint="f", cache_dir=tmp_path / "cache")
    assert same(loaded, store)
    vectors = make_memory(6).vectors[:1]
    assert torch.equal(
        loaded.search(vectors, 3, ["4"], hybrid=1.0)[1], store.search(vectors, 3, ["4"], hybrid=1.0)[1]
    )
    with pytest.raises(ValueError, match="fingerprint f, expected g"):
        from_hub("org/notes", fingerprint="g", cache_dir=tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match="'org/other' is no dataset repository"):
        from_hub("org/other", cache_dir=tmp_path / "cache")


def test_a_second_upload_takes_the_place_of_the_first(hub, tmp_path):
    store = CorpusStore.open(tmp_path / "s")
    store.append(make_memory(3))
    store.push_to_hub("org/notes")
    store.append(make_memory(2, first=3))
    store.push_to_hub("org/notes")
    assert len(from_hub("org/notes", cache_dir=tmp_path / "cache")) == 5
    assert len(hub.repositories["datasets", "org/notes"].commits) == 2


def test_a_plain_memory_goes_up_and_comes_down(hub, tmp_path):
    memory = make_memory(3)
    memory.push_to_hub("org/plain")
    assert set(hub.repositories["datasets", "org/plain"].files) == {*FILES, "README.md"}
    assert (
        'model.load_memory("org/plain")'
        in hub.repositories["datasets", "org/plain"].files["README.md"].decode()
    )
    assert same(CorpusMemory.from_pretrained("org/plain", "f", cache_dir=tmp_path / "cache"), memory)
    with pytest.raises(FileNotFoundError, match="neither a folder nor a dataset repository"):
        CorpusMemory.from_pretrained("org/none", cache_dir=tmp_path / "cache")
