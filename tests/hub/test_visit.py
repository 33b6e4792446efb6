"""Documents of a visit: pasted, uploaded, checked; compressed in steps; text as it streams."""

import json
import time

import pytest
import torch
from clara.hub.space import visit
from conftest import DOCUMENTS, QUESTIONS


def test_pasted_text_is_cut_at_empty_lines():
    text = "One\nstill one\n\n\r\n  \nTwo\n \t\n"
    assert visit.pasted_documents(text) == [
        {"id": "text 1", "text": "One\nstill one"},
        {"id": "text 2", "text": "Two"},
    ]
    assert visit.pasted_documents(" \n\n ") == []


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_uploads_of_each_kind(tmp_path):
    paths = [
        write(tmp_path, "a.txt", "Plain."),
        write(tmp_path, "b.MD", "# Bridges\n\nThe Forth Bridge."),
        write(tmp_path, "c.jsonl", '{"id": 7, "text": "Seven.", "title": "T"}\n\n"Just text"\n'),
    ]
    assert visit.uploaded_documents(paths) == [
        {"id": "a.txt", "text": "Plain."},
        {"id": "b.MD", "title": "Bridges", "text": "The Forth Bridge."},
        {"id": "7", "text": "Seven.", "title": "T"},
        {"id": "c.jsonl:3", "text": "Just text"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.pdf", b"x", "a.pdf: only .txt, .md, .jsonl"),
        ("a.txt", b"\xff\xfe\x00", "a.txt: this is not UTF-8"),
        ("a.txt", b" \n", "a.txt: the file is empty"),
        ("a.jsonl", b'{"text": "x"}\n{', "a.jsonl, line 2: this is not JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: this is not JSON"),
        ("a.jsonl", b'{"words": "x"}', 'line 1: a row needs a "text"'),
        ("a.jsonl", b'{"text": 3}', 'line 1: a row needs a "text"'),
    ],
)
def test_bad_uploads_are_named(tmp_path, name, content, told):
    with pytest.raises(ValueError, match=told):
        visit.uploaded_documents([write(tmp_path, name, content)])


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


def test_the_samples_can_be_taken():
    from conftest import ROOT

    path = ROOT / "data" / "samples" / "corpus.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    taken = visit.checked(visit.uploaded_documents([str(path)]))
    assert [document["text"] for document in taken] == [row["text"] for row in rows]
