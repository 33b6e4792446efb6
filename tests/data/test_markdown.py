"""Markdown as documents: titles, paths of headings, front matter, what is no heading and what is no text."""

import pytest
from clara.data.markdown import markdown_document


def sections(text, title=None):
    document = markdown_document(text, title)
    return [
        (s["title"], document["text"][s["start"] : s["end"]].strip()) for s in document.get("sections", [])
    ]


NO_HEADINGS = {
    "front matter": "---\n# made by a tool\ntitle: x\n---\n\n# Real\n\nBody.\n",
    "indented code": "Do this:\n\n    # become root\n    make\n\n# Real\n\nBody.\n",
    "nested fences": "````md\n```sh\n# comment\n```\n````\n\n# Real\n\nBody.\n",
    "tildes in a fence": "```sh\n~~~ text\n# comment\n```\n\n# Real\n\nBody.\n",
    "comment": "<!--\n# hidden\n-->\n# Real\n\nBody.\n",
    "underlined": "Real\n====\n\nBody.\n\n## Part\n\nMore.\n",
    "list and quotation": "- # one\n\n> # two\n\n# Real\n\nBody.\n",
    "windows": "---\r\ntitle: x\r\n---\r\n# Real\r\n\r\nBody.\r\n",
    "levels": "## Before\n\ntext\n\n# Real #\n\nBody.\n",
    "marks": "# **Re**[al](u)\n\nBody.",
}


@pytest.mark.parametrize("text", NO_HEADINGS.values(), ids=NO_HEADINGS)
def test_the_title_is_the_first_real_heading_of_level_one(text):
    document = markdown_document(text)
    assert document["title"] == "Real"
    assert ("Real", "Body.") in sections(text)


GUIDE = """---
tags: [a, b]
date: 2026-01-02
id: mine
---
Intro.

# Guide

Words.

## Install

### Linux

```sh
# not a heading

make
```

### Empty

## Use &amp; `run`

| a | b |
|---|---|
| 1 | 2 |
"""


def test_headings_make_paths_and_a_heading_alone_is_no_section():
    assert sections(GUIDE) == [
        ("Guide", "Intro."),
        ("Guide", "Words."),
        ("Guide > Install > Linux", "```sh\n# not a heading\n\nmake\n```"),
        ("Guide > Use & run", "| a | b |\n|---|---|\n| 1 | 2 |"),
    ]


def test_front_matter_is_metadata():
    document = markdown_document(GUIDE)
    assert document["tags"] == ["a", "b"] and str(document["date"]) == "2026-01-02"
    assert "id" not in document and document["text"].startswith("Intro.")


@pytest.mark.parametrize(
    ("text", "given", "title"),
    [
        ("---\ntitle: Post\n---\n## Intro\n\nx", None, "Post"),
        ("---\ntitle: Post\n---\nx", "Page", "Post"),
        ("x", "Page", "Page"),
        ("## Intro\n\nx", "Page", "Page"),
        ("## Intro\n\nx\n\n## Other\n\ny", None, "Intro"),
        ("x", None, None),
    ],
)
def test_where_a_title_comes_from(text, given, title):
    assert markdown_document(text, given).get("title") == title


def test_paths_begin_with_the_title_of_the_document():
    text = "# One\n\na\n\n# Two\n\nb\n\n### Deep\n\nc"
    assert sections(text) == [("One", "a"), ("One > Two", "b"), ("One > Two > Deep", "c")]
    assert sections("## A\n\na\n\n## B\n\nb") == [("A", "a"), ("B", "b")]
    assert sections("## A\n\na", "Page") == [("Page > A", "a")]


@pytest.mark.parametrize(
    "text", ["plain\n\ntext", "#hashtag", "####### seven", "---\nnot: [yaml\n---\nx", "a\u2028b\x0cc"]
)
def test_text_without_headings_stays_as_it_is(text):
    assert markdown_document(text) == {"text": text}


@pytest.mark.parametrize(
    "text", ["# Only", "# Only\n\n## Headings\n", "<!-- nothing -->", "---\na: 1\n---\n", ""]
)
def test_what_holds_no_text_is_empty(text):
    assert markdown_document(text)["text"].strip() == ""
