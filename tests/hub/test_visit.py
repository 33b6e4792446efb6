"""Documents of a visit: pasted, uploaded, checked; compressed in steps; text as it streams."""

import time

import pytest
import torch
from clara.data.sample_corpus import sample_questions
from clara.hub.space import visit
from conftest import DOCUMENTS, QUESTIONS
from office_files import write_docx


def test_pasted_text_is_one_document():
    (document,) = visit.pasted_documents("# Handbook\n\n## Hours\n\nWe open at nine.\n\n\nAnd close at five.")
    assert document["id"] == "pasted text" and document["title"] == "Handbook"
    assert [section["title"] for section in document["sections"]] == ["Handbook > Hours"]
    assert visit.pasted_documents(" \n\n ") == []


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_uploads_of_each_kind(tmp_path):
    pytest.importorskip("markitdown")
    write_docx(tmp_path / "d.docx")
    paths = [
        write(tmp_path, "a.txt", "Plain.\n\nStill the same document."),
        write(tmp_path, "b.MD", "# Bridges\n\nThe Forth Bridge."),
        write(tmp_path, "c.jsonl", '{"id": 7, "text": "Seven.", "title": "T"}\n'),
        str(tmp_path / "d.docx"),
    ]
    found, skipped = visit.uploaded_documents(paths)
    assert [document["id"] for document in found] == ["a.txt", "b.MD", "7", "d.docx"] and not skipped
    assert found[0]["text"] == "Plain.\n\nStill the same document."
    assert found[1]["title"] == "Bridges" and "We open at nine." in found[3]["text"]


def test_what_cannot_be_read_is_left_out_with_its_reason(tmp_path):
    bad = [
        ("a.exe", b"x", "suffix '.exe'"),
        ("b.txt", b"\xff\x00a", "not UTF-8"),
        ("c.txt", b" \n", "no text"),
    ]
    paths = [write(tmp_path, name, content) for name, content, _ in bad]
    found, skipped = visit.uploaded_documents([*paths, write(tmp_path, "good.txt", "Good.")])
    assert [document["id"] for document in found] == ["good.txt"] and len(skipped) == 3
    for (name, _, told), line in zip(bad, sorted(skipped), strict=True):
        assert line.startswith(name) and told in line and str(tmp_path) not in line
    with pytest.raises(ValueError, match="Nothing could be read: a.exe"):
        visit.checked([], skipped)


def test_a_malformed_row_is_named(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "x"}\n{')
    with pytest.raises(ValueError, match=r"^a\.jsonl:2"):
        visit.uploaded_documents([path])


def test_the_sample_is_compressed_once(shared_model, tmp_path, monkeypatch):
    rows = [{"id": str(number), "text": text} for number, text in enumerate(DOCUMENTS)]
    monkeypatch.setattr(visit, "sample_documents", lambda: rows)
    first = visit.sample_memory(shared_model, tmp_path)
    monkeypatch.setattr(visit, "sample_documents", lambda: 1 / 0)
    again = visit.sample_memory(shared_model, tmp_path)
    assert again.texts == first.texts and torch.equal(again.values, first.values)
    (file,) = tmp_path.glob("*/*.safetensors")
    file.write_bytes(file.read_bytes()[:-9])
    monkeypatch.setattr(visit, "sample_documents", lambda: rows)
    assert len(visit.sample_memory(shared_model, tmp_path)) == len(rows)


def test_limits_and_ids():
    with pytest.raises(ValueError, match="no document yet"):
        visit.checked([])
    many = [{"id": str(number), "text": "x"} for number in range(visit.MAX_DOCUMENTS + 1)]
    with pytest.raises(ValueError, match="501 documents are too many"):
        visit.checked(many)
    with pytest.raises(ValueError, match="400,001 characters"):
        visit.checked([{"id": "a", "text": "x" * 400_001}])
    same = visit.checked([{"id": "a", "text": "x"} for _ in range(3)])
    assert [document["id"] for document in same] == ["a", "a (2)", "a (3)"]


def test_compressing_in_steps_gives_the_whole_memory(shared_model):
    documents = [{"id": str(row), "text": text} for row, text in enumerate(DOCUMENTS)]
    steps = list(visit.compress_steps(shared_model, documents, step=4))
    assert [(done, total) for done, total, _ in steps] == [(0, 6), (4, 6), (6, 6)]
    whole = shared_model.build_memory(documents, show_progress=False)
    torch.testing.assert_close(steps[-1][2].values, whole.values, rtol=1e-3, atol=1e-3)
    assert steps[-1][2].document_ids == whole.document_ids


def test_a_long_document_is_compressed_in_one_step(shared_model):
    long = {"id": "long", "text": "Fog is grey and cold. " * 60}
    documents = [{"id": "a", "text": "Short."}, long, {"id": "b", "text": "Short too."}]
    steps = list(visit.compress_steps(shared_model, documents, step=2))
    whole = shared_model.build_memory(documents, show_progress=False)
    assert len(whole) > 5 and steps[-1][:2] == (len(whole), len(whole)) and len(steps) > 2
    assert steps[-1][2].document_ids == whole.document_ids and steps[-1][2].orders == whole.orders


def test_tokens_are_counted_without_padding(shared_model):
    each = [visit.count_tokens(shared_model, [text]) for text in DOCUMENTS]
    assert visit.count_tokens(shared_model, DOCUMENTS) == sum(each) > 0


def test_streamed_text_grows_to_the_answer(shared_model):
    memory = shared_model.build_memory(DOCUMENTS, show_progress=False)
    texts = list(
        visit.streamed(
            shared_model,
            lambda out: shared_model.generate(QUESTIONS[0], memory, streamer=out, max_new_tokens=12),
        )
    )
    assert texts[-1] == shared_model.generate(QUESTIONS[0], memory, max_new_tokens=12)
    assert all(len(a) <= len(b) for a, b in zip(texts, texts[1:], strict=False))


def test_streaming_tells_failure_and_silence(shared_model):
    def broken(out):
        raise ValueError("no such passage")

    with pytest.raises(ValueError, match="no such passage"):
        list(visit.streamed(shared_model, broken))
    with pytest.raises(TimeoutError):
        list(visit.streamed(shared_model, lambda out: time.sleep(1), timeout=0.05))


def test_chips_are_questions_of_the_sample():
    chips = visit.sample_chips()
    assert len(set(chips)) == 4 and set(chips) <= {row["question"] for row in sample_questions()}
