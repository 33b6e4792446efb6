"""Tests of data/documents.py: what each kind of file gives, in which order, and what bad files say."""

import json
import os
from datetime import date
from pathlib import Path

import pyarrow
import pytest
from clara.data.documents import read_documents
from clara.data.readers import read_rows
from clara.data.skipped import Skipped
from clara.processing_clara import to_passages
from pyarrow import parquet


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_text_file_is_one_document_named_after_the_file(tmp_path):
    (tmp_path / "note.txt").write_bytes(b"\xef\xbb\xbfHello\nthere")
    assert list(read_documents(tmp_path / "note.txt")) == [{"id": "note.txt", "text": "Hello\nthere"}]


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


def test_folders_are_read_sorted_without_hidden_files(tmp_path, caplog):
    for name in ("b.txt", "a.TXT", "sub/c.md", "sub/.git/d.txt", ".e.txt", "picture.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert [row["id"] for row in read_documents(tmp_path)] == ["a.TXT", "b.txt", "sub/c.md"]
    assert "picture.png" in caplog.text


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
        list(read_documents(tmp_path / name))  # the only one, so that nothing is read


def test_bad_parquet_is_named(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(ValueError, match=r"bad\.parquet cannot be read as Parquet"):
        list(read_documents(tmp_path / "bad.parquet"))


def test_bad_paths_are_named(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "table.csx").write_text("a,b")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_documents(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"table\.csx has the suffix '\.csx'"):
        read_documents([tmp_path / "table.csx"])
    with pytest.raises(ValueError, match=r"folder holds no file with one of the suffixes \.txt"):
        read_documents(tmp_path / "folder")
    with pytest.raises(ValueError, match=r"empty\.txt holds no text"):
        list(read_documents(tmp_path / "empty.txt"))
    with pytest.raises(ValueError, match="`paths` is empty"):
        read_documents([])


# What people have


def test_a_byte_order_mark_is_no_text(tmp_path):
    row = json.dumps({"id": "1", "text": "café"}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + row.encode() + b"\r\n")
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbftext\r\ncaf\xc3\xa9\r\n")
    (tmp_path / "c.json").write_bytes(b"\xef\xbb\xbf" + row.encode())
    (tmp_path / "d.txt").write_bytes("café".encode("utf-16"))
    assert [row["text"] for row in read_documents(tmp_path)] == ["café"] * 4
    assert [row["text"] for _, row in read_rows(tmp_path / "a.jsonl")] == ["café"]


def test_suffixes_in_capitals(tmp_path):
    write_rows(tmp_path / "A.JSONL", {"text": "a"})
    parquet.write_table(pyarrow.table({"text": ["b"]}), tmp_path / "B.PARQUET")
    (tmp_path / "C.MD").write_text("# Title\n\nc")
    (tmp_path / "D.Csv").write_text("text\nd")
    assert [row["text"] for row in read_documents(tmp_path)] == ["a", "b", "# Title\n\nc", "d"]
    assert [row["text"] for _, row in read_rows([tmp_path / "A.JSONL", tmp_path / "B.PARQUET"])] == ["a", "b"]


def test_names_that_are_not_utf8_are_told_apart(tmp_path):
    for name in (b"caf\xe9.txt", b"caf\xe8.txt"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_text("text")
    assert [row["id"] for row in read_documents(tmp_path)] == ["caf\\xe8.txt", "caf\\xe9.txt"]


def test_lone_surrogates_are_replaced_everywhere(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", {"id": "\ud83d", "text": "a\ud83d", "k\ud83d": ["\ud83d"]})
    assert list(read_documents(path)) == [{"id": "\ufffd", "text": "a\ufffd", "k\ufffd": ["\ufffd"]}]


def test_nan_is_nothing_and_an_infinity_is_named(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", {"text": "a", "score": float("nan"), "all": [1.5, float("nan")]})
    assert list(read_documents(path)) == [{"id": "a.jsonl:1", "text": "a", "all": [1.5, None]}]
    write_rows(path, {"text": "a"}, {"text": "b", "deep": {"x": [float("-inf")]}})
    with pytest.raises(ValueError, match=r"a\.jsonl:2: `deep` is infinite"):
        list(read_documents(path))


@pytest.mark.parametrize("depth", [30, 100_000])
def test_what_is_nested_too_deep_is_named(tmp_path, depth):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "x": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(ValueError, match=r"a\.jsonl:1"):
        list(read_documents(tmp_path / "a.jsonl"))


def test_rows_of_other_tools(tmp_path):
    path = write_rows(
        tmp_path / "a.jsonl",
        {"page_content": "a", "metadata": {"source": "s", "title": "T", "tags": ["x", "y"]}},
        {"_id": "d", "title": "", "text": "b", "metadata": {}},
    )
    assert list(read_documents(path)) == [
        {"id": "a.jsonl:1", "text": "a", "title": "T", "source": "s", "tags": ["x", "y"]},
        {"id": "d", "text": "b"},
    ]


@pytest.mark.parametrize(
    "content",
    [
        [{"text": "a"}, {"text": "b"}],
        {"version": 2, "data": [{"text": "a"}, {"text": "b"}]},
    ],
)
def test_json_files(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content, indent=1))
    assert [(row["id"], row["text"]) for row in read_documents(path)] == [
        ("a.json:1", "a"),
        ("a.json:2", "b"),
    ]
    path.write_text('{"text": "a"}\n{"text": "b"}\n')  # rows under another name
    assert [row["text"] for row in read_documents(path)] == ["a", "b"]
    path.write_text(json.dumps({"text": "alone", "rows": [1]}))
    assert list(read_documents(path)) == [{"id": "a.json:1", "text": "alone", "rows": [1]}]
    path.write_text('{"text": ')
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        list(read_documents(path))
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"a\.json:1: must be a JSON object, got int"):
        list(read_documents(path))


def test_a_table_with_texts_holds_documents(tmp_path):
    (tmp_path / "a.csv").write_text('id;text;year;rate;zip\n007;"one;\ntwo";1890;1.5;01\n\n8;three;;2;x\n')
    assert list(read_documents(tmp_path / "a.csv")) == [
        {"id": "007", "text": "one;\ntwo", "year": 1890, "rate": 1.5, "zip": "01"},
        {"id": "8", "text": "three", "rate": 2.0, "zip": "x"},
    ]
    (tmp_path / "a.tsv").write_text("text\tyear\na, b\t1\tmore\n")
    with pytest.raises(ValueError, match=r"a\.tsv:2: has 3 cells, but there are 2 columns"):
        list(read_documents(tmp_path / "a.tsv"))


def test_a_table_without_texts_is_a_document_of_rows(tmp_path):
    (tmp_path / "prices.csv").write_text("Item,Price\nRope,3\nHook,\n,\n")
    (document,) = read_documents(tmp_path / "prices.csv")
    assert document["text"] == "Item: Rope; Price: 3\nItem: Hook\n"
    passages = to_passages(
        document, lambda texts, headers: [[f"{h}|{t}"] for t, h in zip(texts, headers, strict=True)]
    )
    assert passages.texts == ["prices|Item: Rope; Price: 3", "prices|Item: Hook"]
    assert passages.document_ids == ["prices.csv#0", "prices.csv#1"]


# What is left out


def mixed(folder):
    folder.mkdir()
    (folder / "a.txt").write_text("text")
    (folder / "b.txt").write_text(" \n")
    (folder / "c.png").write_bytes(b"x")
    (folder / "d.txt").write_bytes(b"caf\xe9")
    write_rows(folder / "e.jsonl", {"text": "row"}, {"text": " "}, {"text": None, "id": 5})
    (folder / "f.md").write_text("# Only\n\n## Headings\n")
    return folder


def test_what_gives_no_text_is_left_out_and_listed(tmp_path, caplog):
    folder, skipped = mixed(tmp_path / "d"), Skipped()
    assert [row["id"] for row in read_documents(folder, skipped=skipped)] == ["a.txt", "e.jsonl:1"]
    assert [(Path(place).name, reason.split(" (")[0]) for place, reason in skipped] == [
        ("c.png", "has the suffix '.png', which is not readable"),
        ("b.txt", "holds no text"),
        ("d.txt", "is not UTF-8"),
        ("e.jsonl", "has rows without text, 2 of them"),
        ("f.md", "holds no text"),
    ]
    assert len(skipped) == 5 and "(first: 2)" in caplog.text and caplog.text.count("is left out") == 5
    assert "; and 2 more" in skipped.told()


@pytest.mark.parametrize("name", ["b.txt", "c.png", "d.txt", "e.jsonl:2", "f.md"])
def test_strict_reading_stops_at_the_first(tmp_path, name):
    folder = mixed(tmp_path / "d")
    for other in folder.iterdir():
        if other.name not in (name.partition(":")[0], "a.txt"):
            other.unlink()
    with pytest.raises(ValueError, match=rf"{name} "):
        list(read_documents(folder, strict=True))


def test_where_nothing_is_read_the_reasons_are_told(tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.md").write_text("# x")
    with pytest.raises(
        ValueError, match=r"No document was read: .*a\.txt holds no text; .*b\.md holds no text"
    ):
        list(read_documents(tmp_path))
