import threading
from datetime import timedelta

import pytest
import torch
from clara.memory_clara import CorpusMemory, is_corpus_memory
from clara.store import CorpusStore
from clara.store.writing import AT_WORK, LOCK, writing
from memory_helpers import make_memory, same

SPLIT = {"document_ids": ["d1#0", "d1#1"], "parents": ["d1", "d1"]}


@pytest.fixture
def store(tmp_path):
    """A store of seven passages, d0 to d6."""
    made = CorpusStore.open(tmp_path / "store")
    made.append(make_memory(7))
    return made


def reopened(store):
    return CorpusStore.open(store.uri)


def test_a_store_meets_the_protocol_and_holds_what_came_in(store):
    assert is_corpus_memory(store)
    assert same(store, make_memory(7)) and same(reopened(store), make_memory(7))
    assert store.hidden_size == 8
    row, expected = store[-2], make_memory(7)[-2]
    assert torch.equal(row.pop("memory"), expected.pop("memory")) and row == expected


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "int4"])
def test_every_format_reads_what_the_plain_memory_reads(tmp_path, dtype):
    plain = make_memory(5, width=128)
    store = CorpusStore.open(tmp_path / "s", dtype=dtype)
    store.append(plain)
    packed = CorpusMemory(plain.values, plain.texts, dtype=dtype, offsets=plain.offsets)
    assert store.dtype == dtype
    assert all(map(torch.equal, store.gather([4, 0, 2]), packed.gather([4, 0, 2])))
    store.append(
        CorpusMemory(
            **{"values": plain.values, "offsets": plain.offsets},
            texts=plain.texts,
            document_ids=list("abcde"),
            fingerprint="f",
        )
    )
    assert torch.equal(store.gather([9])[0], packed.gather([4])[0])


def test_an_empty_store_says_so(tmp_path):
    store = CorpusStore.open(tmp_path / "s")
    assert len(store) == 0 and list(store.texts) == [] and store.version == 0 and store.fingerprint is None
    for call in (
        lambda: store.search(torch.ones(1, 8), 1),
        lambda: store.delete(["a"]),
        store.optimize,
        store.versions,
    ):
        with pytest.raises(ValueError, match="holds nothing yet"):
            call()
    with pytest.raises(FileNotFoundError, match="There is no store"):
        CorpusStore.open(tmp_path / "s2", create=False)


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises((ValueError, NotADirectoryError)):
        CorpusStore.open(tmp_path / "f").append(make_memory())


def test_a_table_of_somebody_else_is_refused(tmp_path):
    import lance
    import pyarrow as pa

    lance.write_dataset(pa.table({"id": ["a"]}), tmp_path / "s")
    with pytest.raises(ValueError, match="is no store of CLaRa"):
        CorpusStore.open(tmp_path / "s")


def test_append_comes_last(store):
    assert store.append(make_memory(2, first=7)) == 2
    assert store.document_ids[7:] == ["d7", "d8"] and len(reopened(store)) == 9
    assert torch.equal(store.gather([8])[0], make_memory(2, first=7).gather([1])[0])


@pytest.mark.parametrize(
    ("there", "new"),
    [
        ({}, {}),
        ({}, SPLIT),
        (SPLIT, {"document_ids": ["d9", "d1"]}),
        (SPLIT, {"document_ids": ["d1#1", "d9"]}),
    ],
)
def test_append_of_a_document_in_any_form_is_refused(tmp_path, there, new):
    store = CorpusStore.open(tmp_path / "s")
    store.append(make_memory(2, **there))
    version = store.version
    with pytest.raises(ValueError, match="has the document 'd[01](#1)?' already"):
        store.append(make_memory(2, **new))
    assert same(reopened(store), make_memory(2, **there)) and reopened(store).version == version


def test_another_models_store_is_refused(store):
    with pytest.raises(ValueError, match="fingerprint f, expected g"):
        CorpusStore.open(store.uri, fingerprint="g")
    for change in (store.append, store.upsert):
        with pytest.raises(ValueError, match="made by another compressor"):
            change(make_memory(1, first=9, fingerprint="g"))
        with pytest.raises(ValueError, match="made by another compressor"):
            change(make_memory(1, first=9, width=4))
    assert same(reopened(store), make_memory(7))


class Model:
    """A stand-in for a model: the memory of a text is its length."""

    def __init__(self, fingerprint="f"):
        self.fingerprint, self.calls = fingerprint, []

    def memory_fingerprint(self):
        return self.fingerprint

    def build_memory(self, documents, **options):
        self.calls.append(options)
        values = torch.tensor([[float(len(row["text"]))] * 8 for row in documents])
        return CorpusMemory(
            values,
            [row["text"] for row in documents],
            [row["id"] for row in documents],
            [{name: value for name, value in row.items() if name not in ("id", "text")} for row in documents],
            fingerprint=self.fingerprint,
            offsets=torch.arange(len(values) + 1),
        )


def test_documents_are_compressed_by_the_model(store):
    model = Model()
    store.append(["three", {"text": "a", "year": 3}, {"id": "x", "text": "bb"}], model, batch_size=4)
    assert store.document_ids[7:] == ["7", "8", "x"] and store.metadata[8] == {"year": 3}
    assert store.gather([9])[0].tolist() == [[2.0] * 8] and model.calls[0]["batch_size"] == 4
    assert store.search(torch.ones(1, 8), 10, where="year = 3")[1].tolist() == [[8]]


def test_a_document_that_is_there_is_refused_before_it_is_compressed(store):
    model = Model()
    with pytest.raises(ValueError, match="'d3' already"):
        store.append([{"id": "d3", "text": "x"}], model)
    assert not model.calls
    with pytest.raises(ValueError, match="made by another compressor"):
        store.append(["x"], other := Model("g"))
    assert not other.calls
    with pytest.raises(ValueError, match="`model` is missing"):
        store.append(["x"])


def test_upsert_replaces_all_passages_of_a_document(tmp_path):
    store = CorpusStore.open(tmp_path / "s")
    store.append(make_memory(2, document_ids=["a#0", "a#1"], parents=["a", "a"]))
    store.append(make_memory(2, first=7, document_ids=["b", "c"]))
    version = store.version
    assert store.upsert(make_memory(2, first=3, document_ids=["a#0", "n"], parents=["a", "n"])) == 2
    assert sorted(store.document_ids) == ["a#0", "b", "c", "n"]
    index = list(store.document_ids).index("a#0")
    assert torch.equal(store.gather([index])[0], make_memory(2, first=3).gather([0])[0])
    assert len(CorpusStore.open(store.uri, version=version)) == 4


def test_upsert_leaves_other_documents_alone(store):
    with pytest.raises(ValueError, match="an id of the document 'd3', which stays"):
        store.upsert(make_memory(1, first=9, document_ids=["d3"], parents=["z"]))
    assert same(reopened(store), make_memory(7))


def test_delete(tmp_path):
    store = CorpusStore.open(tmp_path / "s")
    store.append(make_memory(3, document_ids=["a#0", "a#1", "it's"], parents=["a", "a", "it's"]))
    store.append(make_memory(3, first=3))
    with pytest.raises(ValueError, match="'nope', which is not in the store"):
        store.delete(["a", "nope"])
    with pytest.raises(ValueError, match="list of ids"):
        store.delete("a")
    assert store.delete([]) == 0 and len(store) == 6
    assert store.delete(["a", "it's", "d4"]) == 4
    assert list(store.document_ids) == ["d3", "d5"] and len(reopened(store)) == 2
    assert torch.equal(store.gather([1])[0], make_memory(3, first=3).gather([2])[0])
    assert store.delete(["d3", "d5"]) == 2 and len(reopened(store)) == 0


def test_a_single_passage_is_deleted_by_its_own_id(tmp_path):
    store = CorpusStore.open(tmp_path / "s")
    parts = {"parents": ["a", "a", "b"], "orders": [0, 1, 0], "document_ids": ["a#0", "a#1", "b"]}
    store.append(make_memory(3, **parts))
    assert store.delete(["a#1"]) == 1
    assert list(reopened(store).document_ids) == ["a#0", "b"]


def test_places_after_deletes_and_optimize(store):
    store.append(make_memory(5, first=7))
    store.delete(["d0", "d3", "d8"])
    for _ in range(2):
        ids = [f"d{name}" for name in range(12) if name not in (0, 3, 8)]
        assert list(store.document_ids) == ids
        for name in (1, 6, 7, 11):
            part = make_memory(7) if name < 7 else make_memory(5, first=7)
            vector = part.vectors[name % 7][None]
            assert [store.document_ids[i] for i in store.search(vector, 1)[1][0]] == [f"d{name}"]
            found = store.search(vector, 1, where={"number": {">": 0}})[1][0, 0]
            assert store.document_ids[found] == f"d{name}"
            assert [
                store.document_ids[i] for i in store.search(vector, 1, [str(name)], hybrid=1.0)[1][0]
            ] == [f"d{name}"]
        store.optimize()


def test_a_reader_keeps_its_version(store):
    reader = reopened(store)
    expected = reader.search(make_memory(7).vectors, 3)
    store.append(make_memory(3, first=7))
    store.delete(["d1", "d2"])
    store.upsert(make_memory(1, first=5))
    store.optimize()
    assert same(reader, make_memory(7))
    assert torch.equal(reader.search(make_memory(7).vectors, 3)[1], expected[1])
    reader.refresh()
    assert len(reader) == 8


def test_versions_and_tags(store):
    store.tag("first")
    store.append(make_memory(3, first=7))
    store.delete(["d0"])
    assert [entry["passages"] for entry in store.versions() if entry["tags"]] == [7]
    assert [entry["passages"] for entry in store.versions()][-1] == 9
    assert same(CorpusStore.open(store.uri, version="first"), make_memory(7))
    store.optimize(keep_versions=timedelta(0))
    assert [entry["passages"] for entry in store.versions()] == [7, 9]
    assert same(CorpusStore.open(store.uri, version="first"), make_memory(7))
    store.untag("first")
    with pytest.raises(ValueError, match="tag of no version"):
        store.untag("first")
    for version in ("first", 99):
        with pytest.raises(ValueError, match="cannot be opened at version"):
            CorpusStore.open(store.uri, version=version)


def test_optimize_joins_files(store):
    for first in range(7, 27, 2):
        store.append(make_memory(2, first=first))
    store.delete(["d0"])
    ids = list(store.document_ids)
    store.optimize(keep_versions=timedelta(0))
    folder = store._dataset
    assert len(folder.get_fragments()) <= 2 and list(store.document_ids) == ids
    assert sum(fragment.num_deletions for fragment in folder.get_fragments()) == 0


def test_a_second_writer_is_told(store):
    with writing(store.uri, None):
        for change in (
            lambda: store.append(make_memory(1, first=9)),
            lambda: store.delete(["d0"]),
            store.optimize,
        ):
            with pytest.raises(RuntimeError, match="Another process writes"):
                change()
    store.append(make_memory(1, first=9))


def test_writers_that_take_turns_lose_nothing(store):
    other = reopened(store)
    store.append(make_memory(2, first=7))
    other.append(make_memory(2, first=9))
    with pytest.raises(ValueError, match="'d9' already"):
        store.append(make_memory(1, first=9))
    assert sorted(reopened(store).document_ids) == sorted(f"d{name}" for name in range(11))


def test_readers_beside_a_writer_see_whole_versions(store):
    wrong, over = [], threading.Event()

    def read():
        while not over.is_set():
            seen = reopened(store)
            if len(seen) % 5 != 2 or len(list(seen.document_ids)) != len(seen):
                wrong.append(len(seen))

    thread = threading.Thread(target=read)
    thread.start()
    for first in range(7, 32, 5):
        store.append(make_memory(5, first=first))
        store.delete([f"d{first}", *(f"d{first + i}" for i in range(1, 5))])
    over.set()
    thread.join()
    assert not wrong


def test_what_a_dead_writer_left_goes_with_the_next_write(store, tmp_path):
    folder = tmp_path / "store"
    left = [
        folder / "data" / "dead.lance",
        folder / "_deletions" / "0-1-77.arrow",
        folder / "_indices/dead/x.idx",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"half")
    (folder / AT_WORK).touch()
    assert same(reopened(store), make_memory(7))
    store.delete(["d3"])
    store.append(make_memory(1, first=9))
    assert not (folder / AT_WORK).exists() and not any(path.exists() for path in left)
    assert (folder / LOCK).exists() and len(list(reopened(store).document_ids)) == 7
    assert reopened(store).search(make_memory(7).vectors[:1], 1, ["9"], hybrid=1.0)[1].tolist() == [[6]]


def test_versions_that_a_dead_optimize_began_to_remove_go_with_the_next_write(store, tmp_path):
    folder = tmp_path / "store"
    (gone,) = (folder / "data").iterdir()
    store.optimize()
    store.upsert(make_memory(7))
    store.optimize()
    gone.unlink()
    store.delete(["d3"])
    assert 1 in [entry["version"] for entry in store.versions()]
    (folder / AT_WORK).touch()
    store.append(make_memory(1, first=9))
    for entry in reopened(store).versions():
        assert len(CorpusStore.open(store.uri, version=entry["version"])) >= 6
    assert 1 not in [entry["version"] for entry in store.versions()]


def test_a_write_that_fails_is_cleaned_up_by_the_next(store, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("clara.store.commits.lance.write_dataset", fail)
        with pytest.raises(OSError, match="cannot be read or written.*No space left"):
            store.append(make_memory(1, first=9))
    assert same(reopened(store), make_memory(7))
    store.append(make_memory(1, first=9))
    assert len(reopened(store)) == 8


def test_new_fields_of_metadata_become_filters(store):
    memory = make_memory(
        2, first=7, metadata=[{"lang": "en", "author": {"age": 3}}, {"tags": ["a", "b"], "number": "x"}]
    )
    store.append(memory)
    query = torch.ones(1, 8)

    def found(where):
        return sorted(store.document_ids[i] for i in store.search(query, 9, where=where)[1][0])

    assert found("lang = 'en'") == found({"author.age": 3}) == ["d7"]
    assert found("author.name = 'a1' AND number < 4") == ["d1", "d3"]
    assert found("array_has(tags, 'b')") == ["d8"]
    assert found({"number": "x"}) == [] and store.metadata[8]["number"] == "x"
    assert reopened(store).metadata[7] == {"lang": "en", "author": {"age": 3}}
