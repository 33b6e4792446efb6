"""Documents as users give them, turned into passages: checked, titled, split, named."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .passages_clara import check_unique

Document = str | Mapping[str, Any]

RESERVED = ("text", "id", "title")


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

    def add(self, document_id: str, parts: list[str], metadata: dict) -> None:
        """Appends the parts of one document."""
        for order, part in enumerate(parts):
            self.texts.append(part)
            self.document_ids.append(document_id if len(parts) == 1 else f"{document_id}#{order}")
            self.metadata.append(metadata)
            self.parents.append(document_id)
            self.orders.append(order)

    def __getitem__(self, rows: slice) -> "Passages":
        """A slice of the passages."""
        return Passages(*(list(column)[rows] for column in vars(self).values()))


def is_document(value: Any) -> bool:
    """Whether a value is one document, a text or a mapping, and not a collection of them."""
    return isinstance(value, (str, Mapping))


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


def to_passages(
    documents: Sequence[Document],
    split: Callable[[list[str]], list[list[str]]],
    document_ids: Sequence[str] | None = None,
    metadata: Sequence[dict] | None = None,
    first: int = 0,
) -> Passages:
    """Turns documents into passages of at most `doc_max_length` tokens.

    Args:
        documents: Strings, or mappings with `text` and optional `id`, `title` and metadata. A title is put
            on a line of its own before the text.
        split: Splits texts into their passages (`ClaraProcessor.split_documents`).
        document_ids: One id a document, above those of the mappings. Default: "0", "1", …
        metadata: One mapping a document, added to those of the mappings.
        first: Number of the first document for default ids, when documents come in chunks.

    Raises:
        TypeError: If a document is neither a string nor a mapping with a string `text`; names its index.
        ValueError: If a document is empty, an id occurs twice, or the lists differ in length.
    """
    documents = [documents] if is_document(documents) else list(documents)
    for name, values in (("document_ids", document_ids), ("metadata", metadata)):
        if values is not None and len(values) != len(documents):
            raise ValueError(f"`{name}` has {len(values)} entries for {len(documents)} documents.")
    texts = check_texts([_text(document, index) for index, document in enumerate(documents)], "documents")
    ids = [
        clean_text(str(document_ids[i])) if document_ids is not None else _id(document, first + i)
        for i, document in enumerate(documents)
    ]
    check_unique(ids)
    passages = Passages()
    for index, parts in enumerate(split(texts)):
        extra = dict(metadata[index]) if metadata is not None else {}
        passages.add(ids[index], parts, {**_metadata(documents[index]), **extra})
    check_unique(passages.document_ids)
    return passages


def _text(document: Document, index: int) -> str:
    if isinstance(document, str):
        return document
    if not isinstance(document, Mapping) or "text" not in document:
        raise TypeError(
            f"`documents[{index}]` must be a string or a mapping with `text`, got {type(document).__name__}."
        )
    text, title = document["text"], document.get("title")
    if not isinstance(text, str):
        raise TypeError(f"`documents[{index}]['text']` must be a string, got {type(text).__name__}.")
    return f"{title}\n{text}" if title and text.strip() else text


def _id(document: Document, index: int) -> str:
    given = document.get("id") if isinstance(document, Mapping) else None
    return str(index) if given is None else clean_text(str(given))


def _metadata(document: Document) -> dict:
    if isinstance(document, str):
        return {}
    kept = {key: value for key, value in document.items() if key not in RESERVED}
    return {"title": document["title"], **kept} if document.get("title") else kept


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
