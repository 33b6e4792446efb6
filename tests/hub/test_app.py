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
    steps = list(page.compress("\n\n".join(DOCUMENTS[:2]), [str(upload)]))
    memory, status, choices, files = steps[-1]
    assert memory.document_ids == ["text 1", "text 2", "moon.txt"] and files is None
    assert "3 documents (3 passages) in memory" in status and "progress" in steps[0][1]
    assert [value for _, value in choices.choices] == [0, 1, 2]
    assert not upload.exists()


def test_bad_uploads_are_told_and_deleted_and_the_old_memory_stays(page, tmp_path):
    upload = tmp_path / "bad.jsonl"
    upload.write_text("{")
    ((memory, status, _, files),) = page.compress("", [str(upload)])
    assert memory == gradio.skip() and "bad.jsonl, line 1" in status and 'role="alert"' in status
    assert files is None and not upload.exists()
    assert "no document yet" in list(page.compress("", None))[-1][1]


def test_the_answer_streams_beside_its_passages(page, shared_model, memory):
    steps = list(page.ask(QUESTIONS[0], 2, memory))
    hits = shared_model.retrieve(QUESTIONS[0], memory, retrieval_top_k=2)
    assert len(steps) > 2
    assert 'aria-busy="true"' in steps[0][0] and 'aria-busy="false"' in steps[-1][0]
    assert "as memories" in steps[-1][0]
    assert all(f">{name}<" in steps[0][1] for name in hits.document_ids)
    assert list(page.ask(QUESTIONS[0], 10, memory))[-1][1].count("<li>") == len(memory)


def test_what_cannot_be_asked_is_told(page, memory):
    assert "compress some documents first" in next(page.ask("Who?", 2, None))[0]
    assert "Write a question" in next(page.ask("  ", 2, memory))[0]
    assert "shorten it" in next(page.ask("x" * 1001, 2, memory))[0]
    assert "limit" in list(page.ask("é" * 900, 2, memory))[-1][0]
    assert "compress some documents first" in next(page.paraphrase(None, None))


def test_looking_inside(page, shared_model, memory):
    said = list(page.paraphrase(1, memory))[-1]
    assert "Clara Schumann" in said and 'aria-busy="false"' in said
    assert page.show_lens(QUESTIONS[0]).count("<tr>") == shared_model.config.num_memory_tokens


def test_the_layout_keeps_nothing_and_calls_nobody(shared_model):
    blocks = app.build(app.Page(shared_model, trained=False))
    assert blocks.analytics_enabled is False
    assert blocks.delete_cache == (600, app.VISIT_SECONDS)
    html = "".join(str(part["props"].get("value")) for part in blocks.config["components"])
    assert "untrained" in html
    assert not [part for part in blocks.config["dependencies"] if part["api_visibility"] == "public"]
