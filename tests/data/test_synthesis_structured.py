import asyncio
import json

import pytest

pytest.importorskip("pydantic")

from clara.data.synthesis.prompts import Answer, Coverage, PairVerdict, Questions
from clara.data.synthesis.structured import BadReplyError, ask, read_json, strict_schema
from clara.data.synthesis.teacher import Reply, Request


class Replies:
    """Gives fixed replies and keeps the requests."""

    def __init__(self, *replies):
        self.replies, self.requests = list(replies), []

    async def complete(self, request):
        self.requests.append(request)
        reply = self.replies[len(self.requests) - 1]
        return reply if isinstance(reply, Reply) else Reply(reply)


def put(form, *replies, **options):
    teacher = Replies(*replies)
    return asyncio.run(ask(teacher, "prompt", form, **options)), teacher


@pytest.mark.parametrize(
    "text",
    [
        '{"questions": ["a?"]}',
        'Sure! Here it is:\n```json\n{"questions": ["a?"]}\n```\nAnything else?',
        '<think>{"questions": ["no"]}</think>{"questions": ["a?"]}',
        '{"questions": ["a?",]}',
        'The set {x} is empty. {"questions": ["a?"]}',
        '{"Question1": "a?"}',
        '{"questions": ["a?"], "note": "extra"}',
    ],
)
def test_replies_are_read_tolerantly(text):
    value, teacher = put(Questions, text)
    assert value.questions == ["a?"]
    assert len(teacher.requests) == 1


def test_number_stands_for_text_and_missing_fields_take_their_default():
    assert put(Answer, '{"answer": 1912}')[0] == Answer(answerable=True, answer="1912")
    assert put(Coverage, '{"questions": []}')[0].uncovered_facts == []


def test_prose_is_repaired_once():
    value, teacher = put(PairVerdict, "It is correct, I think.", '{"correct": true}', seed=3)
    assert value.correct
    shown, asked = teacher.requests[1].messages[-2:]
    assert shown == {"role": "assistant", "content": "It is correct, I think."}
    assert "holds no JSON object" in asked["content"]
    assert teacher.requests[1].temperature == 0


def test_unfinished_reply_gets_twice_the_room():
    value, teacher = put(Answer, Reply('{"answer": "a lo', "length"), '{"answer": "b"}', max_tokens=10)
    assert value.answer == "b"
    assert [request.max_tokens for request in teacher.requests] == [10, 20]


@pytest.mark.parametrize(
    ("replies", "reason", "calls"),
    [
        (("prose", "prose again"), "unparsable", 2),
        ((Reply('{"a', "length"), Reply('{"a', "length")), "unfinished", 2),
        (("I'm sorry, but I can't help with that.",), "refusal", 1),
        ((Reply("", "refusal"),), "refusal", 1),
        ((Reply("", "bad_request"),), "bad_request", 1),
        (('{"answer": ["list"]}', '{"answer": null}'), "unparsable", 2),
    ],
)
def test_hopeless_replies_have_a_reason(replies, reason, calls):
    teacher = Replies(*replies)
    with pytest.raises(BadReplyError) as error:
        asyncio.run(ask(teacher, "prompt", Answer))
    assert error.value.reason == reason
    assert len(teacher.requests) == calls


def test_an_answer_that_starts_like_a_refusal_but_has_the_form_counts():
    assert put(Answer, '{"answer": "I cannot help it, a song"}')[0].answer.startswith("I cannot")


def test_no_json_is_an_error():
    with pytest.raises(ValueError, match="no JSON object"):
        read_json("nothing {here")


def test_schema_is_as_strict_servers_want_it():
    schema = strict_schema(Coverage)
    assert schema["required"] == ["uncovered_facts", "questions"]
    assert schema["additionalProperties"] is False
    assert "title" not in json.dumps(schema)


def test_equal_requests_have_equal_keys_and_others_not():
    request = Request(({"role": "user", "content": "a"},), seed=1)
    assert request.key() == Request(({"content": "a", "role": "user"},), seed=1).key()
    changed = [{"seed": 2}, {"max_tokens": 3}, {"temperature": 0.1}, {"schema": {}}, {"schema_name": "x"}]
    keys = {Request(request.messages, **{"seed": 1, **change}).key() for change in changed}
    assert len(keys | {request.key()}) == 6
