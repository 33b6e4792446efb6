"""Documents as users give them, turned into passages: checked, titled, split, named."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .packing_clara import check_unique

Document = str | Mapping[str, Any]
Split = Callable[[list[str], list[str]], list[list[str]]]

TEXTS, IDS, METADATA = (
    ("text", "page_content", "content", "contents"),
    ("id", "_id", "docid"),
    ("metadata", "meta"),
)
OURS = ("text", "id", "title", "sections")
PART = re.compile(r"(.+)#\d+", re.DOTALL)
PATH = re.compile(
    r"(~|\.{0,2})?[/\\]\S+|[A-Za-z]:[/\\]\S+"
    r"|\S+\.(csv|docx|html?|jsonl?|markdown|md|parquet|pdf|pptx|rst|safetensors|tsv|txt|xlsx)",
    re.IGNORECASE,
)
LONGEST_PATH = 4096


@dataclass
class Passages:
    """Passages in order, one entry a passage in every list.

    A passage that is a whole document keeps the document's id; the parts of a split one are called `{id}#0`,
    `{id}#1`, … and share `parents`, with their place in `orders`.
    """

    texts: list[str] = field(default_factory=list)
    document_ids: list[str] = field(default_factory=list)
    metadata: list[dict] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    orders: list[int] = field(default_factory=list)

    def add(self, document_id: str, parts: list[str], metadata: list[dict]) -> None:
        """Appends the parts of one document, each with its metadata."""
        for order, part in enumerate(parts):
            self.texts.append(part)
            self.document_ids.append(document_id if len(parts) == 1 else f"{document_id}#{order}")
            self.metadata.append(metadata[order])
            self.parents.append(document_id)
            self.orders.append(order)

    def __getitem__(self, rows: slice) -> "Passages":
        """A slice of the passages."""
        return Passages(*(list(column)[rows] for column in vars(self).values()))


def is_document(value: Any) -> bool:
    """Whether a value is one document and not a collection of them: a text, a mapping, LangChain's object."""
    return isinstance(value, (str, Mapping, os.PathLike)) or hasattr(value, "page_content")


def is_path(value: Any, alone: bool = True) -> bool:
    """Whether a value that stands where a text is wanted is a path.

    Args:
        value: A text, or anything else.
        alone: It is the only one, so that a word that names a file or folder here is one; among other texts a
            word is a path only if it has the form of one.
    """
    if isinstance(value, os.PathLike):
        return True
    if not isinstance(value, str) or len(value) > LONGEST_PATH or not value.strip() or "\n" in value:
        return False
    if PATH.fullmatch(value.strip()):
        return True
    return (
        alone and "\0" not in value and os.path.exists(os.path.expanduser(value.encode("utf-8", "replace")))
    )


def check_no_path(value: Any, name: str, alone: bool = True) -> None:
    """Refuses a path in place of a text, which would be compressed as the letters of its name.

    Raises:
        ValueError: If the value is one (`is_path`); says how files are read.
    """
    if is_path(value, alone):
        path = str(value)
        raise ValueError(
            f"`{name}` {path!r} is a path, not a text: read its files with "
            f"`clara.data.documents.read_documents({path!r})`, or open a stored memory with "
            f"`model.load_memory({path!r})`. A text that only looks so is given as {{'text': …}}."
        )


def clean_text(text: str) -> str:
    """The text as valid UTF-8: surrogate pairs joined, lone surrogates replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def check_texts(texts: Sequence[str], name: str) -> list[str]:
    """Checks that every text is a non-empty string and cleans it.

    Raises:
        TypeError: If an entry is not a string; the message names its index.
        ValueError: If there is none, or one is empty.
    """
    if not texts:
        raise ValueError(f"`{name}` is empty: give at least one text.")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"`{name}[{index}]` must be a string, got {type(text).__name__}.")
        if not text.strip():
            raise ValueError(f"`{name}[{index}]` is empty: remove it or give it text.")
    return [clean_text(text) for text in texts]


def read_fields(document: Any) -> dict[str, Any]:
    """A document's fields under our names: `text`, where there are any `id`, `title`, `sections`, metadata.

    Texts may be called `page_content` (LangChain), `content` or `contents` as well, ids `_id` (BEIR) or
    `docid`; what lies in a mapping `metadata` or `meta` counts as the document's own fields, which go first.
    """
    if isinstance(document, str):
        return {"text": document}
    if not isinstance(document, Mapping):
        document = {name: getattr(document, name, None) for name in ("page_content", "id", "metadata")}
    fields = dict(document)
    for name in METADATA:
        if isinstance(fields.get(name), Mapping):
            inner = fields.pop(name)
            fields = {**{key: inner[key] for key in inner if key not in (*TEXTS, *IDS)}, **fields}
    for name, others in (("text", TEXTS), ("id", IDS)):
        found = next((other for other in others if other in fields), None)
        if found is not None:
            fields[name] = fields.pop(found)
    return {key: value for key, value in fields.items() if key not in OURS or value is not None}


def check_parts(document_ids: Iterable[str]) -> None:
    """Raises a `ValueError` if one document is named as a part of another would be."""
    known = set(document_ids)
    for document_id in known:
        part = PART.fullmatch(document_id)
        if part and part[1] in known:
            raise ValueError(part_clash(document_id, part[1]))


def part_clash(document_id: str, parent: str) -> str:
    """What is said of a document that is named as a part of another."""
    return (
        f"`document_ids`: {document_id!r} is what a part of the document {parent!r} is called when that "
        "is split: rename one of them."
    )


def to_passages(
    documents: Sequence[Document],
    split: Split,
    document_ids: Sequence[str] | None = None,
    metadata: Sequence[dict] | None = None,
    first: int = 0,
) -> Passages:
    """Turns documents into passages of at most `doc_max_length` tokens.

    Args:
        documents: Strings, or mappings with `text` and optional `id`, `title`, `sections` and metadata, under
            any of the names of `read_fields`. Sections are spans of the text, `{"title", "start", "end"}`: no
            passage goes beyond its section, what lies outside is left out. The title of the section, else of
            the document, is put on a line of its own before each passage.
        split: Splits texts with their headers into passages (`ClaraProcessor.split_documents`).
        document_ids: One id a document, above those of the mappings. Default: "0", "1", …
        metadata: One mapping a document, added to those of the mappings.
        first: Number of the first document for default ids, when documents come in chunks.

    Raises:
        TypeError: If a document is neither a string nor a mapping with a string `text`; names its index.
        ValueError: If a document is empty or a path, an id occurs twice, or the lists differ in length.
    """
    alone = is_document(documents)
    documents = [documents] if alone else list(documents)
    for name, values in (("document_ids", document_ids), ("metadata", metadata)):
        if values is not None and len(values) != len(documents):
            raise ValueError(f"`{name}` has {len(values)} entries for {len(documents)} documents.")
    fields = [_fields(document, index, alone) for index, document in enumerate(documents)]
    check_texts([entry["text"] for entry in fields], "documents")
    ids = [
        clean_text(str(document_ids[i] if document_ids is not None else entry.get("id", first + i)))
        for i, entry in enumerate(fields)
    ]
    check_unique("document_ids", ids)
    check_parts(ids)
    pieces = [_pieces(entry, index) for index, entry in enumerate(fields)]
    headers, sections = zip(*(piece for document in pieces for piece in document), strict=True)
    parts = iter(split(list(sections), list(headers)))
    passages = Passages()
    for index, entry in enumerate(fields):
        kept = {**_metadata(entry), **(metadata[index] if metadata is not None else {})}
        texts, extra = [], []
        for header, _ in pieces[index]:
            found = next(parts)
            section = {"section": header} if header and header != entry.get("title", "") else {}
            texts.extend(found)
            extra.extend({**kept, **section} for _ in found)
        passages.add(ids[index], texts, extra)
    return passages


def _fields(document: Any, index: int, alone: bool) -> dict[str, Any]:
    if not is_document(document):
        raise TypeError(
            f"`documents[{index}]` must be a string or a mapping with `text`, got {type(document).__name__}."
        )
    check_no_path(document, "documents" if alone else f"documents[{index}]", alone)
    fields = read_fields(document)
    if "text" not in fields:
        raise TypeError(
            f"`documents[{index}]` must be a string or a mapping with `text`, got {type(document).__name__}."
        )
    if not isinstance(fields["text"], str):
        raise TypeError(
            f"`documents[{index}]['text']` must be a string, got {type(fields['text']).__name__}."
        )
    return fields


def _pieces(fields: Mapping[str, Any], index: int) -> list[tuple[str, str]]:
    """Header and text of each section; of a document without sections, of the whole."""
    text, title = fields["text"], clean_text(str(fields.get("title") or "")).strip()
    if "sections" not in fields:
        return [(title, clean_text(text))]
    spans = [
        (section["title"] or title, text[section["start"] : section["end"]]) for section in fields["sections"]
    ]
    pieces = [
        (clean_text(header).strip(), clean_text(body).strip()) for header, body in spans if body.strip()
    ]
    if not pieces:
        raise ValueError(f"`documents[{index}]` has sections without a text: remove it or give it text.")
    return pieces


def _metadata(fields: Mapping[str, Any]) -> dict:
    kept = {key: value for key, value in fields.items() if key not in OURS}
    return {"title": fields["title"], **kept} if fields.get("title") else kept


def reading_order(passages: Any, indices: Iterable[int]) -> list[int]:
    """Indices as the generator gets them: best first, passages of one document in the document's order."""
    indices = list(indices)
    parts: dict[str, list[int]] = defaultdict(list)
    for index in indices:
        parts[passages.parents[index]].append(index)
    queues = {parent: iter(sorted(rows, key=lambda i: passages.orders[i])) for parent, rows in parts.items()}
    return [next(queues[passages.parents[index]]) for index in indices]


def pool_order(passages: Any, indices: Iterable[int]) -> list[int]:
    """Indices as they lie in the pool of `passages`, whatever their scores."""
    return sorted(indices)
