import json
from pathlib import Path

import pytest
from build_helpers import FIELDS, part, plan
from clara.store import CorpusStore
from clara.store.build import StoreBuild, decode_fields, encode_fields, file_facts
from clara.store.schema import empty_fields
from memory_helpers import make_memory, same


def names(store):
    return list(store.document_ids)


def test_the_order_of_the_work_makes_no_difference(tmp_path):
    made = []
    for order in ([0, 1, 2], [2, 0, 1]):
        build = StoreBuild(tmp_path / str(order[0]))
        build.begin(plan())
        for number in order:
            build.write(number, part(number))
        made.append(build.commit())
    assert same(*made) and names(made[0]) == [f"d{name}" for name in range(15)]
    assert same(CorpusStore.open(made[0].uri), made[0]) and not StoreBuild(made[0].uri).begun
    assert (
        made[0].search(make_memory(3).vectors[:1], 3, ["text 14"], hybrid=1.0, where="number > 9")[1][0, 0]
        == 14
    )


def test_a_build_goes_on_where_it_stopped(tmp_path):
    build = StoreBuild(tmp_path / "s")
    build.begin(plan())
    build.write(1, part(1))

    def stopping():
        yield part(0)[0]
        raise KeyError("stopped")

    with pytest.raises(KeyError, match="stopped"):
        build.write(0, stopping())
    again = StoreBuild(tmp_path / "s")
    again.begin(plan())
    assert again.waiting() == [0, 2]
    with pytest.raises(FileNotFoundError, match="2 parts are not complete, first 0"):
        again.commit()
    with pytest.raises(RuntimeError, match="A build in .* is not finished"):
        CorpusStore.open(tmp_path / "s").append(make_memory(1, first=99))
    again.write(1, None)
    for number in again.waiting():
        again.write(number, part(number))
    store = again.commit()
    assert names(store) == [f"d{name}" for name in range(15)]
    files = list(Path(store.uri, "data").iterdir())
    assert len(files) == 3


def test_a_kill_between_commit_and_end_is_repaired(tmp_path, monkeypatch):
    build = StoreBuild(tmp_path / "s")
    build.begin(plan())
    for number in range(3):
        build.write(number, part(number))
    with monkeypatch.context() as patch:
        patch.setattr("clara.store.build.index_words", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build.commit()
    again = StoreBuild(tmp_path / "s")
    again.begin(plan())
    assert not again.waiting()
    store = again.commit()
    assert len(store) == 15 and store.search(make_memory(1).vectors, 1, ["text 7"], hybrid=1.0)[
        1
    ].tolist() == [[7]]
    store.append(make_memory(1, first=99))


@pytest.mark.parametrize("discarded", [False, True])
def test_a_kill_while_a_build_is_removed_is_repaired(tmp_path, monkeypatch, discarded):
    build = StoreBuild(tmp_path / "s")
    build.begin(plan())
    for number in range(3):
        build.write(number, part(number))
    with monkeypatch.context() as patch:
        patch.setattr("clara.store.build.shutil.rmtree", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build.discard() if discarded else build.commit()
    assert not build.begun and list(build.state.iterdir())
    if discarded:
        build.begin(plan(2))
        assert build.waiting() == [0, 1]
        return
    store = CorpusStore.open(build.uri)
    store.append(make_memory(1, first=99))
    assert len(store) == 16 and not build.state.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": {"files": ["b"], "batch": 4}}, "another source, source files"),
        ({"dtype": "int8"}, "another dtype"),
        ({"fingerprint": "g"}, "another fingerprint"),
        ({"parts": 4}, "another parts"),
    ],
)
def test_another_plan_is_refused(tmp_path, changes, message):
    build = StoreBuild(tmp_path / "s")
    build.begin(plan())
    build.begin(plan())
    with pytest.raises(ValueError, match=message):
        build.begin(plan(**changes))
    build.discard()
    assert not build.begun
    build.begin(plan(**changes))


def test_an_edit_that_keeps_the_size_is_seen(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("abc")
    before = file_facts(file)
    file.write_text("abd")
    assert file_facts(file) != before and file_facts(file)["bytes"] == 3


def test_a_store_that_is_there_is_no_place_to_build(tmp_path):
    CorpusStore.open(tmp_path / "s").append(make_memory())
    with pytest.raises(FileExistsError, match="holds a store already"):
        StoreBuild(tmp_path / "s").begin(plan())
    with pytest.raises(ValueError, match="is no folder"):
        StoreBuild("s3://bucket/s")


def test_another_models_memory_is_refused(tmp_path):
    build = StoreBuild(tmp_path / "s")
    build.begin(plan())
    with pytest.raises(ValueError, match="fingerprint g is not the one of the build"):
        build.write(0, [make_memory(1, fingerprint="g")])
    assert build.waiting() == [0, 1, 2]


def test_an_id_that_occurs_twice_is_met_before_the_commit(tmp_path):
    build = StoreBuild(tmp_path / "s")
    build.begin(plan(2))
    for number in range(2):
        build.write(number, [make_memory(2)])
    with pytest.raises(ValueError, match="share an id"):
        build.commit()
    assert CorpusStore.open(tmp_path / "s").version == 0


def test_discard_leaves_nothing(tmp_path):
    build = StoreBuild(tmp_path / "s")
    build.begin(plan())
    build.write(0, part(0))
    build.discard()
    assert not any(path.is_file() for path in (tmp_path / "s").rglob("*"))


def test_a_large_part_becomes_several_fragments(tmp_path, monkeypatch):
    made = []
    for size in (1, 1 << 28):
        monkeypatch.setattr("clara.store.build.FRAGMENT_BYTES", size)
        build = StoreBuild(tmp_path / str(size))
        build.begin(plan(1))
        build.write(0, part(0))
        made.append(build.commit())
    assert [len(store._dataset.get_fragments()) for store in made] == [2, 1] and same(*made)


def test_fields_come_back():
    assert decode_fields(encode_fields(FIELDS)) == FIELDS and decode_fields("") == empty_fields()
    json.dumps(encode_fields(FIELDS))
