"""Documents to passages to token ids, prompts with memory slots, labels.

Letters of the shapes: B questions, N passages, L tokens.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase, ProcessorMixin

from .prompts_clara import (
    Messages,
    answer_prompt,
    framed_ids,
    opening_ids,
    plain_ids,
    prompt_ids,
    split_texts,
    template_ids,
)

IGNORE_INDEX = -100
Document = str | Mapping[str, Any]
Split = Callable[[list[str], list[str]], list[list[str]]]
TEXTS, IDS = ("text", "page_content", "content", "contents"), ("id", "_id", "docid")
METADATA = ("metadata", "meta")
OURS = ("text", "id", "title", "sections")
PART = re.compile(r"(.+)#\d+", re.DOTALL)
PATH = re.compile(
    r"(~|\.{0,2})?[/\\]\S+|[A-Za-z]:[/\\]\S+"
    r"|\S+\.(csv|docx|html?|jsonl?|markdown|md|parquet|pdf|pptx|rst|safetensors|tsv|txt|xlsx)",
    re.IGNORECASE,
)
LONGEST_PATH = 4096


def check_unique(name: str, entries: Sequence) -> None:
    """Raises a `ValueError` that names the entry if one occurs twice."""
    if len(set(entries)) < len(entries):
        twice, times = Counter(entries).most_common(1)[0]
        places = [index for index, entry in enumerate(entries) if entry == twice][:2]
        raise ValueError(
            f"`{name}` must be unique, got {twice!r} {times} times, first at {places}: rename one."
        )


@dataclass
class Passages:
    """Passages in order, one entry a passage in every list.

    A whole document keeps its id; the parts of a split one are called `{id}#0`, `{id}#1`, … and share
    `parents`, with their place in `orders`.
    """

    texts: list[str] = field(default_factory=list)
    document_ids: list[str] = field(default_factory=list)
    metadata: list[dict] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    orders: list[int] = field(default_factory=list)

    def add(self, document_id: str, parts: list[str], metadata: list[dict]) -> None:
        """Appends the parts of one document, each with its metadata."""
        numbered = [document_id] if len(parts) == 1 else [f"{document_id}#{i}" for i in range(len(parts))]
        self.texts += parts
        self.document_ids += numbered
        self.metadata += metadata
        self.parents += [document_id] * len(parts)
        self.orders += range(len(parts))


def is_document(value: Any) -> bool:
    """Whether a value is one document and not a collection of them: a text, a mapping, LangChain's object."""
    return isinstance(value, (str, Mapping, os.PathLike)) or hasattr(value, "page_content")


def is_path(value: Any, alone: bool = True) -> bool:
    """Whether what stands for a text is a path: by its form or, where it stands `alone`, if it is there."""
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
    """Raises a ValueError if a path stands for a text: the letters of its name would be compressed."""
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


def check_texts(texts: str | Sequence[str], name: str) -> list[str]:
    """Cleans texts, or one; raises a TypeError at what is no string, a ValueError at an empty one or none."""
    texts = [texts] if isinstance(texts, str) else list(texts)
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


def check_parts(files: Mapping[str, Any]) -> None:
    """Raises a `ValueError` if an id, mapped to its file or to None, is what a part of another is called."""
    for document_id, file in files.items():
        part = PART.fullmatch(document_id)
        if part and part[1] in files:
            raise ValueError(
                f"{f'{file}: ' if file else ''}`document_ids`: {document_id!r} is what a part of the "
                f"document {part[1]!r} is called when that is split: rename one of them."
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
            any name of `read_fields`. Sections are spans of the text, `{"title", "start", "end"}`, which no
            passage crosses. A section's title, else the document's, stands before each of its passages.
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
    if document_ids is None:
        document_ids = [entry.get("id", number) for number, entry in enumerate(fields, first)]
    ids = [clean_text(str(document_id)) for document_id in document_ids]
    check_unique("document_ids", ids)
    check_parts(dict.fromkeys(ids))
    pieces = [_pieces(entry, index) for index, entry in enumerate(fields)]
    headers, sections = zip(*(piece for document in pieces for piece in document), strict=True)
    parts = iter(split(list(sections), list(headers)))
    passages = Passages()
    for index, entry in enumerate(fields):
        kept = {"title": entry["title"]} if entry.get("title") else {}
        kept |= {key: value for key, value in entry.items() if key not in OURS}
        kept = kept if metadata is None else {**kept, **metadata[index]}
        texts, extra = [], []
        for header, _ in pieces[index]:
            found = next(parts)
            section = {"section": header} if header and header != entry.get("title", "") else {}
            texts.extend(found)
            extra.extend({**kept, **section} for _ in found)
        passages.add(ids[index], texts, extra)
    return passages


def _fields(document: Any, index: int, alone: bool) -> dict[str, Any]:
    check_no_path(document, "documents" if alone else f"documents[{index}]", alone)
    fields = read_fields(document) if is_document(document) else {}
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


def reading_order(passages: Any, indices: Iterable[int]) -> list[int]:
    """Indices as the generator gets them: best first, passages of one document in the document's order."""
    indices = list(indices)
    parts: dict[str, list[int]] = defaultdict(list)
    for index in sorted(indices, key=lambda i: passages.orders[i], reverse=True):
        parts[passages.parents[index]].append(index)
    return [parts[passages.parents[index]].pop() for index in indices]


class ClaraProcessor(ProcessorMixin):
    """Turns documents, questions and prompts into token ids for [`ClaraForRetrievalGeneration`].

    Everything is padded on the left. In prompts, `SLOT_ID` (no token's id) marks the memory slots; special
    tokens written in documents and questions are read as ordinary text.

    Args:
        tokenizer: The base model's tokenizer.
        num_memory_tokens: M, the most slots of one document.
        doc_max_length: Longest passage in tokens, with the beginning-of-text token if the base uses one.
        question_max_length: Longest question in tokens.
        prompt_max_length: Longest prompt in tokens, slots and answer included.
        text_prefix, text_suffix, encoder_length, long_texts, prompt_style, memory_suffix, memory_marks,
            pooling: As in `ClaraConfig`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        num_memory_tokens: int = 16,
        doc_max_length: int = 256,
        question_max_length: int = 256,
        prompt_max_length: int = 2048,
        text_prefix: str | None = None,
        text_suffix: str = "",
        encoder_length: int | None = None,
        long_texts: str = "split",
        prompt_style: str = "clara",
        memory_suffix: str = "",
        memory_marks: str = "",
        pooling: str = "memory_tokens",
    ) -> None:
        self.num_memory_tokens, self.pooling = num_memory_tokens, pooling
        self.doc_max_length, self.question_max_length = doc_max_length, question_max_length
        self.prompt_max_length, self.prompt_style = prompt_max_length, prompt_style
        self.text_prefix, self.text_suffix = text_prefix, text_suffix
        self.encoder_length, self.long_texts = encoder_length, long_texts
        self.memory_suffix, self.memory_marks = memory_suffix, memory_marks
        super().__init__(tokenizer)

    def encode_documents(self, texts: Sequence[str], truncation: bool = False) -> BatchEncoding:
        """Encodes N passages for `model.compress`: `input_ids` and `attention_mask`, (N, L).

        Raises:
            ValueError: If a text is empty, or longer than `doc_max_length` and `truncation` is off; names it.
        """
        way_out = "split it with `split_documents`"
        return self._encode(texts, "texts", self.doc_max_length, truncation, way_out)

    def encode_questions(self, questions: Sequence[str]) -> BatchEncoding:
        """Encodes B questions for `model.reason`: `input_ids` and `attention_mask`, (B, L).

        Raises a ValueError if a question is empty or longer than `question_max_length` tokens.
        """
        return self._encode(questions, "questions", self.question_max_length, False, "shorten it")

    def _encode(
        self, texts: Sequence[str], name: str, limit: int, truncation: bool, way_out: str
    ) -> BatchEncoding:
        texts = check_texts(texts, name)
        ids = framed_ids(self.tokenizer, texts, self.text_prefix, self.text_suffix)
        limit = self.encoder_length or limit
        if truncation or self.long_texts == "cut":
            ids = [row[:limit] for row in ids]
        self._check_lengths(ids, limit, name, way_out)
        return self.pad(ids, self.encoder_length)

    def memory_counts(self, attention_mask: torch.Tensor, factor: int = 1) -> list[int]:
        """N counts of the vectors that `compress` gives, read at `factor` times the rate; mask (N, L)."""
        if self.pooling == "memory_tokens":
            return [-(-self.num_memory_tokens // factor)] * len(attention_mask)
        rate = self.doc_max_length // self.num_memory_tokens
        vectors = (attention_mask.sum(dim=-1) + rate - 1) // rate
        return ((vectors + factor - 1) // factor).tolist()

    def split_documents(self, texts: Sequence[str], headers: Sequence[str] | None = None) -> list[list[str]]:
        """Each text's passages of at most `doc_max_length` tokens; with `long_texts="cut"` itself.

        `headers` as of `split_texts`.
        """
        if self.long_texts == "cut":
            headers = [""] * len(texts) if headers is None else headers
            return [
                [f"{header}\n{text}" if header else text] for header, text in zip(headers, texts, strict=True)
            ]
        limit = (self.encoder_length or self.doc_max_length) - self._frame_length()
        return split_texts(self.tokenizer, texts, limit, headers)

    def encode_prompts(
        self, questions: Sequence[str], slots: Sequence[Sequence[int]], answers: Sequence[str] | None = None
    ) -> BatchEncoding:
        """Encodes answering prompts with slots for the memories of documents.

        Args:
            questions: B questions.
            slots: For each question the vectors of each of its documents' memories: [[16, 9]] is one question
                with two documents, [[]] one with none.
            answers: B answers; None leaves the prompt open for generation. The prompt's ids are the same.

        Returns:
            `input_ids`, `attention_mask`, and with answers `labels` (-100 outside the answer), each (B, L).

        Raises:
            ValueError: If a text is empty, a prompt with its answer is too long, or a number is out of range.
        """
        questions = check_texts(questions, "questions")
        return self.encode_messages(
            [answer_prompt(self.prompt_style)] * len(questions), slots, questions, answers
        )

    def encode_messages(
        self,
        prompts: Sequence[Messages],
        slots: Sequence[Sequence[int]],
        texts: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
    ) -> BatchEncoding:
        """Encodes any prompts of prompts_clara; see `encode_prompts`. `texts` fill their `TEXT` marks."""
        texts = [""] * len(prompts) if texts is None else texts
        self.check_prompts(len(prompts), slots, targets)
        ids = [
            [token for part in prompt_ids(self, messages, row, text) for token in part]
            for messages, row, text in zip(prompts, slots, texts, strict=True)
        ]
        if targets is None:
            self._check_lengths(
                ids, self.prompt_max_length, "prompts", "shorten the question or choose fewer documents"
            )
            return self.pad(ids)
        pairs = zip(ids, self.answer_ids(targets), strict=True)
        batch = self.encode_parts([[(row, False, 0), (end, True, 0)] for row, end in pairs])
        del batch["segments"]
        return batch

    def encode_parts(self, rows: Sequence[Sequence[tuple[list[int], bool, int]]]) -> BatchEncoding:
        """Encodes B prompts with their answers from parts: ids, whether they are labelled, their segment.

        Returns:
            `input_ids`, `attention_mask`, `labels` (-100 outside labelled parts) and `segments` (-1 at
            padding), each (B, L).

        Raises:
            ValueError: If a prompt with its answers is too long.
        """
        ids = [[token for part, *_ in row for token in part] for row in rows]
        way_out = "shorten the answer or choose fewer documents"
        self._check_lengths(ids, self.prompt_max_length, "prompts", way_out)
        labels = [[i if told else IGNORE_INDEX for part, told, _ in row for i in part] for row in rows]
        segments = [[number for part, _, number in row for _ in part] for row in rows]
        texts = {"labels": self._left(labels, IGNORE_INDEX), "segments": self._left(segments, -1)}
        return BatchEncoding({**self.pad(ids), **texts})

    def answer_ids(self, answers: Sequence[str]) -> list[list[int]]:
        """Ids of answers, each with the token that ends it."""
        found = plain_ids(self.tokenizer, check_texts(answers, "answers"))
        return [[*row, self.tokenizer.eos_token_id] for row in found]

    def check_prompts(self, prompts: int, slots: Sequence[Sequence[int]], answers: Sequence | None) -> None:
        """Raises a ValueError unless slots and answers are as many as prompts, and counts are possible."""
        for name, values in (("slots", slots), ("answers", answers)):
            if values is not None and len(values) != prompts:
                raise ValueError(f"`{name}` has {len(values)} entries for {prompts} prompts.")
        counts = [count for row in slots for count in row]
        if counts and not 1 <= min(counts) <= max(counts) <= self.num_memory_tokens:
            raise ValueError(
                f"`slots` must be between 1 and {self.num_memory_tokens} a document, got {min(counts)} to "
                f"{max(counts)}."
            )

    def _frame_length(self) -> int:
        prefix, suffix = self.text_prefix, self.text_suffix
        opening = opening_ids(self.tokenizer) if prefix is None else template_ids(self.tokenizer, prefix)
        return len(opening) + len(template_ids(self.tokenizer, suffix))

    @staticmethod
    def _check_lengths(ids: list[list[int]], limit: int, name: str, way_out: str) -> None:
        for index, row in enumerate(ids):
            if len(row) > limit:
                raise ValueError(f"`{name}[{index}]` has {len(row)} tokens, the limit is {limit}: {way_out}.")

    def pad(self, ids: list[list[int]], width: int | None = None) -> BatchEncoding:
        """Ids as `input_ids` and `attention_mask` (B, L), padded on the left to the longest or to a width."""
        pad = self.tokenizer.pad_token_id
        rows = self._left(ids, self.tokenizer.eos_token_id if pad is None else pad, width)
        mask = self._left([[1] * len(row) for row in ids], 0, width)
        return BatchEncoding({"input_ids": rows, "attention_mask": mask})

    @staticmethod
    def _left(rows: list[list[int]], value: int, width: int | None = None) -> torch.Tensor:
        width = width or max(len(row) for row in rows)
        return torch.tensor([[value] * (width - len(row)) + row for row in rows])


ClaraProcessor.register_for_auto_class()
