"""The page's actions without a browser: states, errors, uploads that are deleted, which model is taken."""

import pytest
from conftest import DOCUMENTS, QUESTIONS

gradio = pytest.importorskip("gradio")
from clara.hub.space import app  # noqa: E402


@pytest.fixture
def page(shared_model):
    return app.Page(shared_model, trained=True)


@pytest.fixture
def memory(shared_model):
    return shared_model.build_memory(DOCUMENTS, show_progress=False)


def test_pasted_and_uploaded_documents_are_compressed_and_uploads_deleted(page, tmp_path):
    upload = tmp_path / "moon.txt"
    upload.write_text(DOCUMENTS[2])
    other = tmp_path / "other.exe"
    other.write_bytes(b"MZ")
    steps = list(page.compress("\n\n".join(DOCUMENTS[:2]), [str(upload), str(other)]))
    memory, status, choices, files, chips = steps[-1]
    assert memory.parents == ["pasted text", "moon.txt"] and files is None and not chips.visible
    assert "2 documents (2 passages) in memory" in status and "progress" in steps[0][1]
    assert "other.exe has the suffix" in status and str(tmp_path) not in status
    assert [value for _, value in choices.choices] == [0, 1]
    assert not upload.exists()


def test_bad_uploads_are_told_and_deleted_and_the_old_memory_stays(page, tmp_path):
    upload = tmp_path / "bad.jsonl"
    upload.write_text("{")
    ((memory, status, _, files, _),) = page.compress("", [str(upload)])
    assert memory == gradio.skip() and "bad.jsonl:1" in status and 'role="alert"' in status
    assert files is None and not upload.exists()
    assert "no document yet" in list(page.compress("", None))[-1][1]


def test_the_answer_streams_beside_its_passages(page, shared_model, memory):
    steps = list(page.ask(QUESTIONS[0], 2, memory))
    hits = shared_model.retrieve(QUESTIONS[0], memory, retrieval_top_k=2)
    assert len(steps) > 2
    assert 'aria-busy="true"' in steps[0][0] and 'aria-busy="false"' in steps[-1][0]
    assert "tokens of text →" in steps[-1][0]
    assert all(f">{name}<" in steps[0][1] for name in hits.document_ids)
    assert steps[-1][1].count("<mark>") == 2
    assert list(page.ask(QUESTIONS[0], 10, memory))[-1][1].count("<li>") == len(memory)


def test_an_answer_that_stands_in_no_passage_is_told(page, memory, monkeypatch):
    for supported in (True, False):
        monkeypatch.setattr(app, "is_supported", lambda text, texts, told=supported: told)
        assert ("Not found" in list(page.ask(QUESTIONS[0], 2, memory))[-1][0]) is not supported


def test_a_question_that_is_refused_is_told_once(page, shared_model, memory, monkeypatch):
    monkeypatch.setattr(shared_model.config, "retrieval_min_score", 0.9999)
    told = list(page.ask(QUESTIONS[0], 2, memory))[-1][0]
    assert told.count("Not found") == 1 and "Not found in these documents." in told
    assert shared_model.generate(QUESTIONS[0], memory, 2) == "Not found in these documents."


def test_the_sample_comes_with_questions_to_click(shared_model, tmp_path, monkeypatch):
    rows = [{"id": str(number), "text": text} for number, text in enumerate(DOCUMENTS)]
    monkeypatch.setattr("clara.hub.space.visit.sample_documents", lambda: rows)
    *_, (memory, status, _, _, chips) = app.Page(shared_model, True, str(tmp_path)).take_sample()
    assert len(memory) == 6 and "6 documents" in status and chips.visible


def test_a_page_that_brings_the_sample_begins_with_it(shared_model, memory, tmp_path):
    memory.save_pretrained(tmp_path / "sample")
    page = app.Page(shared_model, True, str(tmp_path / "cache"), made=tmp_path / "sample")
    *_, (found, _, _, _, chips) = page.take_sample()
    assert found.texts == memory.texts and chips.visible
    for each, begins in ((page, 1), (app.Page(shared_model, True), 0)):
        names = [(target[1], dependency.fn.__name__) for dependency in app.build(each).fns.values()
                 for target in dependency.targets]  # fmt: skip
        assert names.count(("load", "take_sample")) == begins and ("click", "take_sample") in names


def test_passages_are_named_after_their_documents(shared_model):
    long = {"id": "fog.md", "text": "Fog is grey and cold. " * 60}
    memory = shared_model.build_memory([long, {"id": "a.txt", "text": "Short."}], show_progress=False)
    assert app.named(memory, 1) == "fog.md, part 2" and app.named(memory, len(memory) - 1) == "a.txt"


def test_what_cannot_be_asked_is_told(page, memory):
    assert "compress some documents first" in next(page.ask("Who?", 2, None))[0]
    assert "Write a question" in next(page.ask("  ", 2, memory))[0]
    assert "shorten it" in next(page.ask("x" * 1001, 2, memory))[0]
    assert "limit" in list(page.ask("é" * 900, 2, memory))[-1][0]
    assert "compress some documents first" in next(page.paraphrase(None, None))


def test_looking_inside(page, shared_model, memory):
    said = list(page.paraphrase(1, memory))[-1]
    assert "Clara Schumann" in said and 'aria-busy="false"' in said
    assert 1 <= page.show_lens(QUESTIONS[0]).count("<tr>") <= shared_model.config.num_memory_tokens


def test_the_layout_keeps_nothing_and_calls_nobody(shared_model, monkeypatch):
    blocks = app.build(app.Page(shared_model, trained=False))
    assert blocks.analytics_enabled is False
    assert blocks.delete_cache == (600, app.VISIT_SECONDS)
    html = "".join(str(part["props"].get("value")) for part in blocks.config["components"])
    assert "untrained" in html and "Ask your documents" in html
    trained = app.Page(shared_model, trained=True)
    assert "it is often wrong" in trained.warning()
    monkeypatch.setattr(app, "SMALL_PARAMETERS", 10)
    assert trained.warning() == ""
    assert not [part for part in blocks.config["dependencies"] if part["api_visibility"] == "public"]
