"""Markdown as a document: front matter, title, and the sections between its headings."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.front_matter import front_matter_plugin

COMMENTS = re.compile(r"(\s*<!--.*?-->)+\s*", re.DOTALL)
RESERVED = ("text", "id", "sections")
BETWEEN = " > "


class Heading(NamedTuple):
    """A heading: its lines, its level from 1 to 6, its text."""

    start: int
    end: int
    level: int
    title: str


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark").enable("table").use(front_matter_plugin)


def markdown_document(text: str, title: str | None = None) -> dict[str, Any]:
    """The fields of a Markdown text: `text`, `title`, `sections`, and what its front matter says.

    The title is the first heading of level 1, else that of the front matter, else `title`, else the first
    heading. Each section is a span of the text, `{"title", "start", "end"}`, under the path of its headings:
    "Guide > Install > Linux". Front matter and comments are no text; nor is a heading without anything below.

    Args:
        text: Markdown (CommonMark with tables).
        title: A title that is known from elsewhere.
    """
    lines = re.sub(r"\r\n?", "\n", text).split("\n")
    tokens = _parser().parse("\n".join(lines))
    front, hidden = _front_matter(tokens)
    blocks = (token for token in tokens if token.type == "html_block" and COMMENTS.fullmatch(token.content))
    hidden |= {line for token in blocks for line in range(*token.map)}
    starts = [0]
    for number, line in enumerate(lines):
        starts.append(starts[-1] + (0 if number in hidden else len(line) + 1))
    kept = "\n".join(line for number, line in enumerate(lines) if number not in hidden)
    headings = _headings(tokens)
    found = next((heading.title for heading in headings if heading.level == 1), None)
    above = found or str(front.pop("title", None) or title or "").strip()
    front.pop("title", None)
    fields = {**front, "text": kept}
    if above or headings:
        fields["title"] = above or headings[0].title
    if headings:
        sections = _sections(headings, len(lines), above)
        spans = [(path, starts[first], min(starts[last], len(kept))) for path, first, last in sections]
        fields["sections"] = [
            {"title": path, "start": start, "end": end}
            for path, start, end in spans
            if kept[start:end].strip()
        ]
        if not fields["sections"]:
            fields["text"] = ""
    return fields


def _front_matter(tokens: Sequence[Token]) -> tuple[dict[str, Any], set[int]]:
    """What the front matter says, and its lines; nothing where it is no YAML mapping."""
    token = next((token for token in tokens if token.type == "front_matter"), None)
    if token is None:
        return {}, set()
    try:
        front = yaml.safe_load(token.content)
    except (yaml.YAMLError, ValueError):
        return {}, set()
    if not isinstance(front, dict):
        return {}, set()
    return {str(key): value for key, value in front.items() if key not in RESERVED}, set(range(*token.map))


def _headings(tokens: Sequence[Token]) -> list[Heading]:
    """The headings that stand in no list or quotation and are not empty."""
    found = []
    for token, inline in zip(tokens, tokens[1:], strict=False):
        if token.type == "heading_open" and token.level == 0:
            title = " ".join(_plain(inline.children or []).split())
            if title:
                found.append(Heading(*token.map, int(token.tag[1:]), title))
    return found


def _plain(tokens: Sequence[Token]) -> str:
    """Inline Markdown without its marks."""
    parts = []
    for token in tokens:
        if token.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        elif token.type != "html_inline":
            parts.append(_plain(token.children) if token.children else token.content)
    return "".join(parts)


def _sections(headings: Sequence[Heading], lines: int, title: str) -> list[tuple[str, int, int]]:
    """The path of each section and its lines: before the first heading, and below each one."""
    ends = [*(heading.start for heading in headings[1:]), lines]
    sections, stack = [(title, 0, headings[0].start)], []
    for heading, end in zip(headings, ends, strict=True):
        stack = [(level, name) for level, name in stack if level < heading.level]
        stack.append((heading.level, heading.title))
        path = [name for _, name in stack]
        if title and path[0] != title:
            path = [title, *path]
        sections.append((BETWEEN.join(path), heading.end, end))
    return sections
