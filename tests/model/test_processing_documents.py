"""Documents to passages: checks that name the index, titles, ids, metadata, cleaning, reading order."""

from collections import UserDict
from types import SimpleNamespace

import pytest
from clara.processing_clara import (
    Passages,
    check_texts,
    clean_text,
    is_document,
    is_path,
    reading_order,
    to_passages,
)


def halves(texts, headers):
    """Splits every text at its bars."""
    return [
        [f"{header}\n{part}" if header else part for part in text.split("|")]
        for text, header in zip(texts, headers, strict=True)
    ]


# Texts


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain", "plain"),
        ("nul \x00 stays", "nul \x00 stays"),
        ("emoji \U0001f600 stays", "emoji \U0001f600 stays"),
        ("\ud83d\ude00", "\U0001f600"),
        ("lone \ud83d high", "lone \ufffd high"),
        ("lone \ude00 low", "lone \ufffd low"),
        ("at the end \ud83d", "at the end \ufffd"),
        ("\ufeffbyte order mark", "\ufeffbyte order mark"),
    ],
)
def test_clean_text_is_valid_unicode(text, clean):
    assert clean_text(text) == clean
    clean_text(text).encode("utf-8")


@pytest.mark.parametrize("bad", [None, 3, b"bytes", ["a"], 1.5])
def test_a_text_of_another_type_names_its_index(bad):
    with pytest.raises(TypeError, match=rf"`questions\[1\]` must be a string, got {type(bad).__name__}"):
        check_texts(["fine", bad], "questions")


@pytest.mark.parametrize("bad", ["", "   ", "\n\t"])
def test_an_empty_text_names_its_index(bad):
    with pytest.raises(ValueError, match=r"`documents\[2\]` is empty"):
        to_passages(["a", "b", bad], halves)


def test_no_text_at_all():
    with pytest.raises(ValueError, match="`documents` is empty: give at least one"):
        to_passages([], halves)


# Documents


def test_texts_get_numbers_and_mappings_keep_ids_titles_and_metadata():
    documents = [
        "one",
        {"text": "two", "id": "b", "title": "Two", "year": 1890},
        UserDict(text="three", id=7),
    ]
    passages = to_passages(documents, halves)
    assert passages.texts == ["one", "Two\ntwo", "three"]
    assert passages.document_ids == passages.parents == ["0", "b", "7"]
    assert passages.metadata == [{}, {"title": "Two", "year": 1890}, {}]
    assert passages.orders == [0, 0, 0]


def test_a_split_document_keeps_parent_order_and_metadata():
    passages = to_passages([{"text": "a|b|c", "id": "x", "year": 1}, "d"], halves)
    assert passages.texts == ["a", "b", "c", "d"]
    assert passages.document_ids == ["x#0", "x#1", "x#2", "1"]
    assert passages.parents == ["x", "x", "x", "1"]
    assert passages.orders == [0, 1, 2, 0]
    assert passages.metadata == [{"year": 1}] * 3 + [{}]


def test_every_passage_stands_below_its_title():
    passages = to_passages([{"text": "a|b", "id": "x", "title": " T\ud83d "}], halves)
    assert passages.texts == ["T\ufffd\na", "T\ufffd\nb"]


def test_passages_end_with_their_sections():
    text = "Guide. intro|more. Install. do it. Empty. "
    sections = [
        {"title": "", "start": 7, "end": 18},
        {"title": "Guide > Install", "start": 28, "end": 34},
        {"title": "Guide > Empty", "start": 41, "end": 42},
    ]
    passages = to_passages(
        [{"text": text, "id": "g", "title": "Guide", "sections": sections, "n": 1}], halves
    )
    assert passages.texts == ["Guide\nintro", "Guide\nmore.", "Guide > Install\ndo it."]
    assert passages.document_ids == ["g#0", "g#1", "g#2"]
    assert passages.metadata[:2] == [{"title": "Guide", "n": 1}] * 2
    assert passages.metadata[2] == {"title": "Guide", "n": 1, "section": "Guide > Install"}
    with pytest.raises(ValueError, match=r"`documents\[0\]` has sections without a text"):
        to_passages([{"text": text, "sections": sections[2:]}], halves)


LANGCHAIN = SimpleNamespace(page_content="a", metadata={"source": "s", "id": "no"}, id="x")


@pytest.mark.parametrize(
    ("document", "ids", "metadata"),
    [
        ({"page_content": "a", "metadata": {"source": "s"}, "id": "x"}, ["x"], {"source": "s"}),
        (LANGCHAIN, ["x"], {"source": "s"}),
        ({"_id": "x", "text": "a", "title": "", "metadata": {"year": 1}}, ["x"], {"year": 1}),
        ({"docid": 5, "contents": "a"}, ["5"], {}),
        ({"id": "x", "_id": "y", "text": "a", "content": "c"}, ["x"], {"_id": "y", "content": "c"}),
        ({"content": "a", "meta": {"year": 1, "tags": ["t"]}, "year": 2}, ["0"], {"year": 2, "tags": ["t"]}),
        ({"text": "a", "metadata": "plain"}, ["0"], {"metadata": "plain"}),
    ],
)
def test_documents_of_other_tools(document, ids, metadata):
    passages = to_passages(document, halves)
    assert (passages.texts, passages.document_ids, passages.metadata) == (["a"], ids, [metadata])


PATHS = [
    "corpus.jsonl",
    "notes/a.md",
    "/etc/hosts",
    "./x",
    "../x/y",
    "~/notes",
    "C:\\docs\\a.pdf",
    "Report.PDF",
]
TEXTS = [
    "Paris",
    "and/or",
    "It is in notes.",
    "see notes/a.md there",
    "/ is the root",
    "a.b",
    "x\n/etc/hosts",
    "5/7",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_not_compressed_as_a_text(path):
    for documents in (path, [path], ["a text", path]):
        with pytest.raises(ValueError, match="is a path, not a text: read its files with"):
            to_passages(documents, halves)
    assert to_passages([{"text": path}], halves).texts == [path]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_no_path(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_path(text)
    assert to_passages([text, "other"], halves).texts == [text, "other"]


def test_a_name_that_is_there_is_a_path_where_it_stands_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my notes").mkdir()
    assert is_path("my notes") and is_path(tmp_path) and not is_path("my notes", alone=False)
    for documents in ("my notes", tmp_path):
        with pytest.raises(ValueError, match="is a path"):
            to_passages(documents, halves)
    assert to_passages(["my notes", "b"], halves).texts == ["my notes", "b"]
    assert not is_path("a\0b") and not is_path("x" * 5000) and not is_path(3)


def test_given_ids_and_metadata_stand_above_those_of_the_mappings():
    documents = [{"text": "a", "id": "x", "year": 1, "kind": "book"}, "b"]
    passages = to_passages(documents, halves, document_ids=["p", 5], metadata=[{"year": 2}, {"n": 3}])
    assert passages.document_ids == ["p", "5"]
    assert passages.metadata == [{"year": 2, "kind": "book"}, {"n": 3}]


def test_default_ids_go_on_from_the_first_number():
    assert to_passages(["a", "b"], halves, first=40).document_ids == ["40", "41"]


@pytest.mark.parametrize("single", ["a text", {"text": "a text"}, UserDict(text="a text")])
def test_one_document_is_a_list_of_one(single):
    assert is_document(single)
    assert to_passages(single, halves).texts == ["a text"]


def test_any_iterable_of_documents():
    assert to_passages((text for text in ("a", "b")), halves).texts == ["a", "b"]
    assert to_passages({"x": "a", "y": "b"}.values(), halves).texts == ["a", "b"]


# Bad input


@pytest.mark.parametrize("bad", [5, None, ["nested"], {"body": "no text"}])
def test_another_kind_of_document_names_its_index(bad):
    with pytest.raises(TypeError, match=r"`documents\[1\]` must be a string or a mapping with `text`"):
        to_passages(["fine", bad], halves)


def test_a_mapping_with_another_text_names_its_index():
    with pytest.raises(TypeError, match=r"`documents\[0\]\['text'\]` must be a string, got int"):
        to_passages([{"text": 5}], halves)


def test_a_title_does_not_make_an_empty_text_a_document():
    with pytest.raises(ValueError, match=r"`documents\[0\]` is empty"):
        to_passages([{"text": " ", "title": "Title"}], halves)


@pytest.mark.parametrize(
    ("documents", "twice"),
    [
        ([{"text": "a", "id": "x"}, "b", {"text": "c", "id": "x"}], r"'x' 2 times, first at \[0, 2\]"),
        (["a", {"text": "b", "id": 0}], r"'0' 2 times, first at \[0, 1\]"),
    ],
)
def test_an_id_twice_is_told_with_both_places(documents, twice):
    with pytest.raises(ValueError, match=f"`document_ids` must be unique, got {twice}"):
        to_passages(documents, halves)


@pytest.mark.parametrize("text", ["a|b", "a"])
def test_a_document_is_not_named_as_a_part_of_another(text):
    with pytest.raises(ValueError, match="'x#1' is what a part of the document 'x' is called"):
        to_passages([{"text": text, "id": "x"}, {"text": "c", "id": "x#1"}], halves)
    ids = ["x#0", "x#1", "#1", "y"]  # parts without their document are documents as any
    assert to_passages([{"text": "a", "id": name} for name in ids], halves).document_ids == ids


@pytest.mark.parametrize("name", ["document_ids", "metadata"])
def test_lists_of_another_length(name):
    with pytest.raises(ValueError, match=f"`{name}` has 1 entries for 2 documents"):
        to_passages(["a", "b"], halves, **{name: [{}]})


def test_an_id_with_a_lone_surrogate_is_cleaned():
    assert to_passages([{"text": "a", "id": "\ud83d"}], halves).document_ids == ["\ufffd"]


# Reading order


def test_passages_of_one_document_are_read_in_its_order():
    """Ranks: x#2, y, x#0, x#1. The places of x's passages stay, their order becomes the document's."""
    passages = SimpleNamespace(parents=["x", "x", "x", "y"], orders=[0, 1, 2, 0])
    assert reading_order(passages, [2, 3, 0, 1]) == [0, 3, 1, 2]
    assert reading_order(passages, [3, 1]) == [3, 1]
    assert reading_order(passages, []) == []


def test_the_parts_of_a_split_document_are_numbered():
    passages = Passages()
    passages.add("a", ["one"], [{}])
    passages.add("b", ["one", "two"], [{}, {}])
    assert passages.document_ids == ["a", "b#0", "b#1"]
    assert passages.parents == ["a", "b", "b"] and passages.orders == [0, 0, 1]


def test_passages_of_a_document_are_read_in_its_order_wherever_they_lie():
    passages = SimpleNamespace(parents=["a", "b", "a"], orders=[1, 0, 0])
    assert reading_order(passages, [0, 1, 2]) == [2, 1, 0]
