"""A store and a tiny model: what is compressed, searched and answered from equals the plain memory's."""

import queue

import pytest
import torch
from clara.serving.engine import Engine
from clara.serving.requests import DONE, FAILED, EngineRequest, Options
from clara.store import CorpusStore
from conftest import DOCUMENTS, QUESTIONS, make_model

YEARS = [1890, 1819, 1655, None, None, 1843]
ROWS = [
    {"id": f"d{row}", "text": text, "year": year, "by": {"name": f"n{row % 2}"}}
    for row, (text, year) in enumerate(zip(DOCUMENTS, YEARS, strict=True))
]
OPTIONS = {"retrieval_top_k": 2, "max_new_tokens": 5, "return_dict_in_generate": True}


@pytest.fixture(scope="module")
def both(shared_model, tmp_path_factory):
    plain = shared_model.build_memory(ROWS, show_progress=False)
    store = CorpusStore.open(tmp_path_factory.mktemp("model") / "s")
    assert store.append(ROWS[:4], shared_model) == 4 and store.append(ROWS[4:], shared_model) == 2
    return plain, store


@pytest.mark.parametrize(
    "options",
    [{}, {"where": {"year": {">": 1800}}}, {"hybrid": 0.7}, {"where": {"by.name": "n1"}, "hybrid": True}],
)
def test_answers_are_those_of_the_plain_memory(shared_model, both, options):
    expected, found = (shared_model.generate(QUESTIONS, memory, **OPTIONS, **options) for memory in both)
    assert found.answers == expected.answers and found.document_ids == expected.document_ids
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-3, rtol=0)


def test_sql_finds_what_the_mapping_finds(shared_model, both):
    by_sql = shared_model.retrieve(QUESTIONS[0], both[1], 6, where="year > 1800 AND by.name = 'n1'")
    mapping = shared_model.retrieve(QUESTIONS[0], both[1], 6, where={"year": {">": 1800}, "by.name": "n1"})
    assert by_sql.document_ids == mapping.document_ids and set(by_sql.document_ids) == {"d1", "d5"}
    with pytest.raises(ValueError, match="lets no passage through"):
        shared_model.generate(QUESTIONS[0], both[1], where="year > 3000")


def test_a_split_document_is_replaced_and_deleted_as_a_whole(shared_model, tmp_path):
    store = CorpusStore.open(tmp_path / "s")
    store.append([{"id": "long", "text": "Fog is grey and cold. " * 60}, "Short."], shared_model)
    parts = len(store) - 1
    assert (
        parts > 2 and list(store.document_ids)[:2] == ["long#0", "long#1"] and store.document_ids[-1] == "1"
    )
    for again in ({"id": "long", "text": "New."}, {"id": "long#1", "text": "New."}):
        with pytest.raises(ValueError, match="has the document 'long' already"):
            store.append([again], shared_model)
    assert store.upsert([{"id": "long", "text": "New."}], shared_model) == 1
    assert sorted(store.document_ids) == ["1", "long"]
    expected = shared_model.build_memory(["New."], show_progress=False).gather([0])[0]
    found = store.gather([list(store.document_ids).index("long")])[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert store.delete(["long"]) == 1 and list(store.document_ids) == ["1"]


def test_the_store_of_another_model_is_refused(base, both):
    other = make_model(base, compression_rate=32)
    for call in (lambda: both[1].append(["x"], other), lambda: both[1].upsert(["x"], other)):
        with pytest.raises(ValueError, match="another compressor or base"):
            call()
    with pytest.raises(ValueError, match="another compressor or base"):
        other.generate(QUESTIONS[0], both[1])


def test_the_server_answers_from_a_store(shared_model, both):
    expected = shared_model.generate(QUESTIONS, both[0], retrieval_top_k=2, max_new_tokens=5)
    engine = Engine(shared_model, max_batch=2)
    events = queue.Queue()
    engine.submit(EngineRequest(QUESTIONS[0], both[1], events.put, 2, Options(max_new_tokens=5)))
    engine.start()
    while (event := events.get(timeout=60)).kind not in (DONE, FAILED):
        continue
    engine.close()
    assert event.kind == DONE and event.value.answer == expected[0]


def test_a_store_is_answered_from_by_the_path_of_its_folder(both, shared_model):
    _, store = both
    expected = shared_model.generate(QUESTIONS, store, **OPTIONS)
    found = shared_model.generate(QUESTIONS, store.uri, **OPTIONS)
    assert found.answers == expected.answers and found.document_ids == expected.document_ids
    assert shared_model.load_memory(store.uri).version == store.version
