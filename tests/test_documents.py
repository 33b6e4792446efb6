"""Tests of data/documents.py: what each kind of file gives, in which order, and what bad files say."""

import json
from datetime import date

import pyarrow
import pytest
from clara.data.documents import count_documents, read_documents
from pyarrow import parquet


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_text_file_is_one_document_named_after_the_file(tmp_path):
    (tmp_path / "note.txt").write_bytes(b"\xef\xbb\xbfHello\nthere")
    assert list(read_documents(tmp_path / "note.txt")) == [{"id": "note.txt", "text": "Hello\nthere"}]


def test_markdown_heading_becomes_the_title_once(tmp_path):
    (tmp_path / "a.md").write_text("```\n# a comment\n```\n\n## The Title ##\n\nBody # not a heading\n")
    (document,) = read_documents(str(tmp_path / "a.md"))
    assert document["title"] == "The Title"
    assert document["text"] == "```\n# a comment\n```\n\n\nBody # not a heading\n"


@pytest.mark.parametrize(
    ("text", "title"), [("# Only\n", "Only"), ("#hashtag\n", None), ("####### seven\n", None)]
)
def test_markdown_text_is_never_lost(tmp_path, text, title):
    (tmp_path / "a.md").write_text(text)
    (document,) = read_documents(tmp_path / "a.md")
    assert document.get("title") == title
    assert document["text"] == text


def test_jsonl_rows_keep_metadata_and_get_an_id(tmp_path):
    path = write_rows(
        tmp_path / "rows.jsonl",
        {"text": "one", "title": None, "year": 1999, "note": ""},
        {"id": 7, "text": "two", "title": "T"},
    )
    path.write_text(path.read_text() + "\n" + json.dumps({"id": "x", "text": "three"}), encoding="utf-8")
    assert list(read_documents(path)) == [
        {"id": "rows.jsonl:1", "text": "one", "year": 1999},
        {"id": "7", "text": "two", "title": "T"},
        {"id": "x", "text": "three"},
    ]
    assert count_documents(path) == 3


def test_parquet_rows(tmp_path):
    path = tmp_path / "rows.parquet"
    columns = {
        "text": ["one", "two"],
        "id": [None, "b"],
        "tags": [["x"], None],
        "day": [date(2026, 1, 2), None],
    }
    parquet.write_table(pyarrow.table(columns), path)
    assert list(read_documents(path)) == [
        {"id": "rows.parquet:1", "text": "one", "tags": ["x"], "day": "2026-01-02"},
        {"id": "b", "text": "two"},
    ]
    assert count_documents(path) == 2


def test_folders_are_read_sorted_without_hidden_files(tmp_path, caplog):
    for name in ("b.txt", "a.TXT", "sub/c.md", "sub/.git/d.txt", ".e.txt", "picture.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert [row["id"] for row in read_documents(tmp_path)] == ["a.TXT", "b.txt", "sub/c.md"]
    assert "picture.png" in caplog.text
    assert count_documents(tmp_path) == 3


def test_ids_stay_apart_when_names_repeat_and_no_file_is_read_twice(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "note.txt").write_text(folder)
    paths = [tmp_path / "y" / "note.txt", tmp_path / "x" / "note.txt", tmp_path / "x"]
    assert [(row["id"], row["text"]) for row in read_documents(paths)] == [
        ("y/note.txt", "y"),
        ("x/note.txt", "x"),
    ]


def test_jsonl_is_streamed(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", {"text": "good"})
    path.write_text(path.read_text() + "not json\n")
    documents = read_documents(path)
    assert next(documents)["text"] == "good"
    with pytest.raises(ValueError, match=r"rows\.jsonl:2"):
        next(documents)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"text": " \n"}, r"rows\.jsonl:1: `text` is empty"),
        ({"body": "x", "id": "a"}, r"rows\.jsonl:1: `text` .*none among \['body', 'id'\]"),
        ({"text": 3}, r"rows\.jsonl:1: `text` must be a string, got a int"),
        ({"text": "x", "title": 3}, r"rows\.jsonl:1: `title`"),
        ({"text": "x", "id": [1]}, r"rows\.jsonl:1: `id` .*\[1\]"),
        ({"text": "x", "id": True}, r"rows\.jsonl:1: `id`"),
        (["x"], r"rows\.jsonl:1"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, told):
    with pytest.raises(ValueError, match=told):
        list(read_documents(write_rows(tmp_path / "rows.jsonl", row)))


@pytest.mark.parametrize("name", ["bad.txt", "bad.md", "bad.jsonl"])
def test_bad_utf8_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=rf"{name}.*(?i:utf-8)"):
        list(read_documents(tmp_path / name))


def test_bad_parquet_is_named(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense")
    for read in (lambda path: list(read_documents(path)), count_documents):
        with pytest.raises(ValueError, match=r"bad\.parquet cannot be read as Parquet"):
            read(tmp_path / "bad.parquet")


def test_bad_paths_are_named(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "table.csv").write_text("a,b")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_documents(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"table\.csv has the suffix '\.csv'"):
        read_documents([tmp_path / "table.csv"])
    with pytest.raises(ValueError, match=r"folder holds no \.txt"):
        read_documents(tmp_path / "folder")
    with pytest.raises(ValueError, match=r"empty\.txt holds no text"):
        list(read_documents(tmp_path / "empty.txt"))
    with pytest.raises(ValueError, match="`paths` is empty"):
        read_documents([])
