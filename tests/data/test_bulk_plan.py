"""The plan of a bulk build: parts of documents, checked before any work."""

import json
import os

import pytest
from clara.data.bulk import plan as plan_module
from clara.data.bulk.plan import corpus_of, metadata_of, part_documents, part_length, plan_for, survey
from clara.store.build import decode_fields


def write(folder, *counts, suffix="jsonl"):
    """Files of numbered documents: file0 holds d0, d1, …"""
    number = 0
    for index, count in enumerate(counts):
        rows = [{"id": f"d{number + row}", "text": f"text é{number + row}", "n": row} for row in range(count)]
        number += count
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"file{index}.{suffix}").write_text(lines, encoding="utf-8")
    return folder


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100])
def test_parts_hold_every_document_once_in_order(tmp_path, size):
    corpus = survey([write(tmp_path, 3, 1, 5)], size)
    assert corpus.documents == 9 and corpus.text_bytes == 9 * len("text é0".encode())
    parts = [list(part_documents(corpus, part)) for part in range(len(corpus.starts))]
    assert [len(part) for part in parts] == [part_length(corpus, part) for part in range(len(parts))]
    assert all(len(part) == size for part in parts[:-1])
    assert [row["id"] for part in parts for row in part] == [f"d{row}" for row in range(9)]


def test_default_size_keeps_the_number_of_parts_down(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "SMALLEST_PART", 4)
    monkeypatch.setattr(plan_module, "MOST_PARTS", 3)
    folder = write(tmp_path, 10, 15)
    corpus = survey([folder])
    assert corpus.part_size == 12 and len(corpus.starts) == 3
    parts = [list(part_documents(corpus, part)) for part in range(3)]
    assert [row["id"] for part in parts for row in part] == [f"d{row}" for row in range(25)]
    monkeypatch.setattr(plan_module, "MOST_PARTS", 100)
    assert survey([folder]).part_size == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "d1", "text": "again"}', "the id 'd1' occurs twice"),
        ("nonsense", "not valid JSON"),
        ('{"id": "x", "body": "y"}', "more.jsonl:1: `text` must be a string"),
        ('{"id": "x", "text": "y", "n": [Infinity]}', "more.jsonl:1: `n` is infinite"),
        ('{"id": "d1#0", "text": "y"}', "more.jsonl: .*'d1#0' is what a part of the document 'd1' is called"),
    ],
)
def test_bad_rows_are_met_before_any_work(tmp_path, line, message):
    write(tmp_path, 3)
    (tmp_path / "more.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        survey([tmp_path])


def test_refuses_no_documents_and_empty_parts(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="hold no document"):
        survey([tmp_path])
    with pytest.raises(ValueError, match="`part_size` must be at least 1, got 0"):
        survey([tmp_path], 0)


def test_fields_of_the_metadata_are_those_of_all_documents(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "MERGED_AT_ONCE", 2)
    rows = [
        {"text": "a"},
        {"text": "b", "year": 3},
        {"text": "c", "title": "T"},
        {"text": "d", "by": {"name": "x"}},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [field.name for field in decode_fields(survey([tmp_path]).fields)]
    assert sorted(names) == ["by", "title", "year"]


def test_metadata_of_a_document():
    section = {"title": "S", "start": 0, "end": 1}
    document = {"id": "a", "text": "x", "title": "T", "n": 1, "sections": [section]}
    assert metadata_of(document) == {"title": "T", "n": 1, "section": ""}


@pytest.mark.parametrize("content", ['{"text": "more"}\n', None])
def test_an_edited_file_is_noticed(tmp_path, content):
    folder = write(tmp_path, 3, 2)
    corpus, file = survey([folder], 2), tmp_path / "file0.jsonl"
    os.utime(file, ns=(1, 1))
    assert len(list(part_documents(corpus, 1))) == 2
    text = file.read_text()
    file.write_text(text + content if content else text.replace('"n": 1', '"n": 7'))
    os.utime(file, ns=(2, 2))
    with pytest.raises(ValueError, match="file0.jsonl has changed since the build was planned"):
        part_documents(corpus, 1)
    assert len(list(part_documents(corpus, 2))) == 1
    assert survey([folder], 2) != corpus


def test_the_plan_of_a_model_names_what_its_memories_are(shared_model, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"id": "a", "text": "Fog is grey."}\n')
    corpus = survey([tmp_path / "one.jsonl"])
    plan = plan_for(shared_model, corpus, "int8", batch_size=4, threads=2)
    memory = shared_model.build_memory(["Fog is grey."], show_progress=False)
    assert plan.fingerprint == shared_model.memory_fingerprint() and plan.base == memory.base
    assert (plan.hidden_size, plan.width) == (memory.hidden_size, memory.vectors.shape[1])
    assert (plan.dtype, plan.parts, plan.source["device"]) == ("int8", 1, "cpu") and corpus_of(plan) == corpus
