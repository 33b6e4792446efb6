"""Asks a teacher for a reply of a given form: JSON schema, tolerant reading, and one attempt at repair."""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .prompts import REPAIR, SYSTEM
from .teacher import Reply, Request, Teacher

Form = TypeVar("Form", bound=BaseModel)

_THINKING = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_REFUSAL = re.compile(
    r"\s*(i['’]m sorry|i am sorry|sorry,|i can(?:not|['’]t) (?:help|assist|comply|do|provide|fulfil)"
    r"|i(?:['’]m| am) (?:unable|not able)|as an ai\b)",
    re.IGNORECASE,
)


class BadReplyError(Exception):
    """A reply without use, after its repair failed.

    Attributes:
        reason: "refusal", "unfinished", "unparsable" or "bad_request".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def ask(
    teacher: Teacher,
    prompt: str,
    form: type[Form],
    max_tokens: int = 512,
    temperature: float = 0.0,
    seed: int = 0,
) -> Form:
    """Asks for a reply of the form of a pydantic class, in at most `max_tokens`; greedily at temperature 0.

    An unreadable or unfinished reply is shown to the teacher once with the problem, and more room if it was
    too long.

    Raises:
        BadReplyError: if there is no readable reply after the repair.
        ConnectionError: see `Teacher.complete`.
    """
    messages = ({"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt})
    schema = strict_schema(form)
    request = Request(messages, schema, form.__name__, max_tokens, temperature, seed)
    reply = await teacher.complete(request)
    value, problem = _read(reply, form)
    if value is not None:
        return value
    shown = ({"role": "assistant", "content": reply.text[:2000]},) if reply.text.strip() else ()
    repair = ({"role": "user", "content": REPAIR.format(problem=problem)},)
    room = 2 * max_tokens if reply.finish_reason == "length" else max_tokens
    reply = await teacher.complete(Request(messages + shown + repair, schema, form.__name__, room, 0.0, seed))
    value, problem = _read(reply, form)
    if value is None:
        raise BadReplyError("unfinished" if reply.finish_reason == "length" else "unparsable")
    return value


@cache
def strict_schema(form: type[BaseModel]) -> dict[str, Any]:
    """Returns the JSON schema of a form as strict servers want it: every field required, no others."""
    schema = form.model_json_schema()
    fields = {name: _bare(field) for name, field in schema["properties"].items()}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def read_json(text: str) -> Any:
    """Reads the first JSON object among prose, code fences and thinking; a ValueError if there is none."""
    text = _THINKING.sub("", text)
    decoder = json.JSONDecoder(strict=False)
    for start in (match.start() for match in re.finditer(r"\{", text)):
        for candidate in (text[start:], re.sub(r",\s*([}\]])", r"\1", text[start:])):
            try:
                return decoder.raw_decode(candidate)[0]
            except json.JSONDecodeError:
                continue
    raise ValueError("it holds no JSON object")


def _read(reply: Reply, form: type[Form]) -> tuple[Form | None, str]:
    """Reads a reply; gives the value, or None and the problem in words.

    A BadReplyError if a repair cannot help: a refusal, or a request that the server does not accept.
    """
    if reply.finish_reason in ("refusal", "bad_request"):
        raise BadReplyError(reply.finish_reason)
    try:
        return form.model_validate(_shaped(read_json(reply.text), form)), ""
    except (ValueError, ValidationError) as error:
        if _REFUSAL.match(reply.text):
            raise BadReplyError("refusal") from error
        if reply.finish_reason == "length":
            return None, "it was cut off before its end"
        return None, str(error).splitlines()[0]


def _shaped(value: Any, form: type[BaseModel]) -> Any:
    """Bends common near misses into form: numbered keys for a list, and numbers where text is wanted."""
    if not isinstance(value, Mapping):
        return value
    value = dict(value)
    fields = strict_schema(form)["properties"]
    for name, field in fields.items():
        if field.get("type") == "string" and isinstance(value.get(name), (int, float)):
            value[name] = str(value[name])
    if "questions" in fields and "questions" not in value:
        numbered = [text for key, text in value.items() if re.fullmatch(r"(?i)question\s*_?\d+", key)]
        if numbered:
            value["questions"] = numbered
    return value


def _bare(field: dict[str, Any]) -> dict[str, Any]:
    """Drops titles and defaults, which strict servers refuse."""
    return {key: value for key, value in field.items() if key not in ("title", "default")}
