"""Requests of strangers: what one may ask for, checked value by value, and errors as JSON.

Nothing here echoes more than a short value, and nothing logs a request's content.
"""

import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

logger = logging.getLogger(__name__)

STATUS = {
    "invalid_request": 400,
    "unknown_memory": 404,
    "too_large": 413,
    "busy": 429,
    "internal_error": 500,
    "out_of_memory": 503,
}
UNFORESEEN = "the request could not be answered; the endpoint's log says where it failed"
Rule = tuple[Callable[[Any], bool], str]


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many requests may be in the house."""

    questions: int = 32  # questions of a request, over all its items
    documents: int = 256  # documents of a request
    document_bytes: int = 200_000  # UTF-8 bytes of one document, title and id included
    total_bytes: int = 1_000_000  # UTF-8 bytes of all documents together
    question_characters: int = 2_000  # characters of a question
    new_tokens: int = 256  # longest answer in tokens
    requests: int = 16  # requests at work or waiting; one more is refused as busy

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise ValueError(f"the limit `{field.name}` must be a positive whole number, got {value!r}.")


class RequestError(ValueError):
    """What a client did wrong; `code` is a key of `STATUS`."""

    def __init__(self, message: str, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.code = code


class RequestReader:
    """Checks requests against limits and gives memories for their names.

    Args:
        memories: What a request may name, opened already.
        **limits: Fields of `Limits`.

    Raises:
        ValueError: If a limit is no positive whole number.
        TypeError: If a limit is unknown.
    """

    def __init__(self, memories: Mapping[str, Any], **limits: int) -> None:
        self.limits = Limits(**limits)
        self._memories = dict(memories)

    def read(self, data: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Items and parameters of a request.

        Args:
            data: What the JSON body said: any value at all.

        Returns:
            Items with `question` (a text or a list of texts) and either `documents` or `memory` (the memory
            itself); generation parameters.

        Raises:
            RequestError: If a value is of another type, out of range, unknown or too large; names its place.
        """
        _check_mapping(data, "the request", ("inputs", "parameters"), ("inputs",))
        listed = data["inputs"] if isinstance(data["inputs"], list) else [data["inputs"]]
        if not listed:
            raise RequestError("`inputs` is empty: give at least one item.")
        self._check_count(len(listed), "inputs", "questions", "items")
        names = ["inputs"] if listed is not data["inputs"] else [f"inputs[{i}]" for i in range(len(listed))]
        items = [self._read_item(item, name) for item, name in zip(listed, names, strict=True)]
        questions = [item["question"] for item in items]
        count = sum(len(entry) if isinstance(entry, list) else 1 for entry in questions)
        documents = [document for item in items for document in item.get("documents", ())]
        self._check_count(count, "inputs", "questions", "questions")
        self._check_count(len(documents), "inputs", "documents", "documents")
        self._check_count(sum(map(_size, documents)), "inputs", "total_bytes", "bytes of documents")
        return items, self._read_parameters(data.get("parameters"))

    def read_one(self, data: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """As `read`, for a request whose answer is to be streamed: one question, one beam."""
        items, parameters = self.read(data)
        if len(items) != 1 or not isinstance(items[0]["question"], str):
            raise RequestError("`inputs` must hold one question to be streamed.")
        if parameters.get("num_beams", 1) > 1:
            raise RequestError("`parameters.num_beams` must be 1 to be streamed.")
        return items, parameters

    def busy(self) -> RequestError:
        """The error of a request that comes when all places are taken."""
        return RequestError(f"{self.limits.requests} requests are waiting already: try later.", "busy")

    @staticmethod
    def describe(error: Exception) -> dict[str, Any]:
        """An exception as JSON: `{"error": {"code", "status", "message"}}`.

        Of an unforeseen one only the place is logged: its text may quote a document.
        """
        code = getattr(error, "code", None)
        if not isinstance(code, str) or code not in STATUS:
            code = "invalid_request" if type(error) in (ValueError, TypeError) else "internal_error"
            code = "out_of_memory" if isinstance(error, (torch.OutOfMemoryError, MemoryError)) else code
        message = str(error)
        if STATUS[code] >= 500:
            places = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%s while answering a request:\n%s", type(error).__name__, places)
            message = UNFORESEEN
        return {"error": {"code": code, "status": STATUS[code], "message": message}}

    def _read_item(self, item: Any, name: str) -> dict[str, Any]:
        _check_mapping(item, f"`{name}`", ("question", "documents", "memory"), ("question",))
        question, place = item["question"], f"{name}.question"
        texts = question if isinstance(question, list) else [question]
        if not texts:
            raise RequestError(f"`{place}` is empty: give at least one question.")
        self._check_count(len(texts), place, "questions", "questions")
        for text in texts:
            _check_text(text, place)
            self._check_count(len(text), place, "question_characters", "characters")
        if ("documents" in item) == ("memory" in item):
            raise RequestError(f"`{name}` must have either `documents` or `memory`.")
        if "memory" in item:
            return {"question": question, "memory": self._named(item["memory"], f"{name}.memory")}
        return {"question": question, "documents": self._read_documents(item["documents"], name)}

    def _read_documents(self, documents: Any, name: str) -> list[Any]:
        if not isinstance(documents, list) or not documents:
            raise RequestError(f"`{name}.documents` must be a list of at least one document.")
        self._check_count(len(documents), f"{name}.documents", "documents", "documents")
        for index, document in enumerate(documents):
            place = f"{name}.documents[{index}]"
            if isinstance(document, Mapping):
                _check_mapping(document, f"`{place}`", ("text", "id", "title"), ("text",))
                for key, value in document.items():
                    _check_text(value, f"{place}.{key}")
            else:
                _check_text(document, place)
            self._check_count(_size(document), place, "document_bytes", "bytes")
        return documents

    def _named(self, name: Any, place: str) -> Any:
        if not isinstance(name, str) or name not in self._memories:
            raise RequestError(
                f"`{place}` must be one of the memories that are offered here, {sorted(self._memories)}.",
                "unknown_memory",
            )
        return self._memories[name]

    def _read_parameters(self, parameters: Any) -> dict[str, Any]:
        if parameters is None:
            return {}
        rules = {**PARAMETERS, "max_new_tokens": whole(1, self.limits.new_tokens)}
        _check_mapping(parameters, "`parameters`", tuple(rules))
        for key, value in parameters.items():
            accepts, rule = rules[key]
            if not accepts(value):
                raise RequestError(f"`parameters.{key}` must be {rule}, got {_shown(value)}.")
        return dict(parameters)

    def _check_count(self, count: int, name: str, limit: str, unit: str) -> None:
        most = getattr(self.limits, limit)
        if count > most:
            raise RequestError(f"`{name}` has {count} {unit}, the limit is {most}.", "too_large")


def whole(low: int, high: int) -> Rule:
    """A whole number in a range."""
    return lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high}"


def number(low: float, high: float) -> Rule:
    """A number in a range."""
    rule = f"a number from {low} to {high}"
    return lambda value: type(value) in (int, float) and low <= value <= high, rule


PARAMETERS: dict[str, Rule] = {
    "retrieval_top_k": whole(1, 64),
    "num_beams": whole(1, 4),
    "do_sample": (lambda value: type(value) is bool, "true or false"),
    "temperature": number(0.05, 5.0),
    "top_p": number(0.01, 1.0),
    "top_k": whole(1, 1000),
    "repetition_penalty": number(0.5, 2.0),
}


def _check_mapping(value: Any, name: str, keys: tuple[str, ...], needed: tuple[str, ...] = ()) -> None:
    if not isinstance(value, Mapping):
        raise RequestError(f"{name} must be an object with {list(keys)}, got {type(value).__name__}.")
    unknown = [_shown(key) for key in value if key not in keys][:5]
    missing = [key for key in needed if key not in value]
    if unknown or missing:
        raise RequestError(f"{name} may have {list(keys)}: unknown {unknown}, missing {missing}.")


def _check_text(value: Any, name: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise RequestError(f"`{name}` must be a text that is not empty, got {_shown(value)}.")


def _size(document: Any) -> int:
    texts = document.values() if isinstance(document, Mapping) else [document]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def _shown(value: Any) -> str:
    """A value as a message shows it: numbers and short texts, of all else the type."""
    plain = isinstance(value, (bool, float, type(None))) or (type(value) is int and abs(value) < 1e18)
    return ascii(value) if plain or isinstance(value, str) and len(value) <= 40 else type(value).__name__
