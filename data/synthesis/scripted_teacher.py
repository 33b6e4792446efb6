"""A teacher made of rules: instant, deterministic and free, for dry runs, examples and tests.

It blanks a name or a number in a sentence and asks for it, so its questions are answerable and its
judgements true; its paraphrase only turns the order of the sentences round, which the quality gates then
refuse as a copy.
"""

import json
import re
from collections.abc import Callable

from .teacher import Reply, Request

BLANK = "____"
_DOCUMENT = re.compile(r"<document>\n(.*?)\n</document>", re.DOTALL)
_SENTENCES = re.compile(r"[^.!?\n]+(?:[.!?](?!\s|\Z)[^.!?\n]*)*[.!?]?")
_TARGET = re.compile(r"(?<=\w )(?:\d[\d,.]*\d|\d|[A-Z][\w'’-]+(?: [A-Z][\w'’-]+)*)(?=\W)")
_SIMPLE = "Which name or number completes the statement “{0}”?"
_COMPLEX = "Which names or numbers complete, in this order, the statements “{0}” and “{1}”?"
_STATEMENT = re.compile("“(.*?)”", re.DOTALL)


class ScriptedTeacher:
    """Answers every request of the synthesis by rules."""

    async def complete(self, request: Request) -> Reply:
        """Answers one request; see `Teacher.complete`. A form that it does not know gets an empty reply."""
        prompt = next(message["content"] for message in request.messages if message["role"] == "user")
        rule = _RULES.get(request.schema_name)
        text = json.dumps(rule(prompt), ensure_ascii=False) if rule else ""
        return Reply(text, "stop", len(prompt.split()), len(text.split()))


def blanked_statements(document: str) -> list[tuple[str, str]]:
    """Returns sentences of a document with one name or number blanked, each with what was blanked."""
    statements = []
    for sentence in (match.group().strip() for match in _SENTENCES.finditer(document)):
        target = _TARGET.search(sentence)
        if target and len(sentence.split()) >= 5:
            blanked = f"{sentence[: target.start()]}{BLANK}{sentence[target.end() :]}"
            statements.append((blanked.rstrip("."), target.group()))
    return statements


def _documents(prompt: str) -> list[str]:
    """Returns the documents of a prompt, without the examples before them."""
    return _DOCUMENT.findall(prompt)


def _questions(prompt: str) -> dict:
    statements = [statement for statement, _ in blanked_statements(_documents(prompt)[-1])]
    if "joining two" not in prompt:
        return {"questions": [_SIMPLE.format(statement) for statement in statements]}
    pairs = zip(statements[::2], statements[1::2], strict=False)
    return {"questions": [_COMPLEX.format(*pair) for pair in pairs]}


def _answer(prompt: str) -> dict:
    question = prompt.rsplit("Question: ", 1)[-1]
    known = dict(blanked_statements("\n".join(_documents(prompt))))
    found = [known.get(statement) for statement in _STATEMENT.findall(question)]
    if not found or None in found:
        return {"answerable": False, "answer": ""}
    return {"answerable": True, "answer": " and ".join(found)}


def _pair_verdict(prompt: str) -> dict:
    document, answer = _documents(prompt)[-1], prompt.rsplit("\nAnswer: ", 1)[-1]
    return {"correct": all(part in document for part in answer.split(" and "))}


def _paraphrase(prompt: str) -> dict:
    sentences = [match.group().strip() for match in _SENTENCES.finditer(_documents(prompt)[-1])]
    return {"paraphrase": " ".join(sentence for sentence in reversed(sentences) if sentence)}


_RULES: dict[str, Callable[[str], dict]] = {
    "Questions": _questions,
    "Answer": _answer,
    "PairVerdict": _pair_verdict,
    "Coverage": lambda _: {"uncovered_facts": [], "questions": []},
    "Paraphrase": _paraphrase,
    "ParaphraseVerdict": lambda _: {"missing": [], "added": [], "faithful": True},
}
