import asyncio
import json

import pytest

pytest.importorskip("pydantic")

from clara.data.synthesis.machine import Pair, SynthesisSettings, synthesize_document
from clara.data.synthesis.teacher import Reply, TeacherStoppedError, all_or_cancel


class Teacher:
    """Answers by form; a value may be a list, used call by call (its last entry again and again)."""

    def __init__(self, **by_form):
        self.by_form, self.prompts = by_form, []

    async def complete(self, request):
        name, prompt = request.schema_name, request.messages[-1]["content"]
        value = self.by_form[name]
        if isinstance(value, list):
            number = sum(1 for form, _ in self.prompts if form == name)
            value = value[min(number, len(value) - 1)]
        self.prompts.append((name, prompt))
        value = value(prompt) if callable(value) else value
        return value if isinstance(value, Reply) else Reply(json.dumps(value))

    def count(self, name):
        return sum(1 for form, _ in self.prompts if form == name)


GOOD = {
    "Questions": {"questions": ["q1?", "q2?"]},
    "Answer": {"answerable": True, "answer": "a"},
    "PairVerdict": {"correct": True},
    "Coverage": {"questions": []},
    "Paraphrase": {"paraphrase": "in other words"},
    "ParaphraseVerdict": {"faithful": True},
}


def run(kinds=("simple",), document="A document.", **changes):
    settings = {name: changes.pop(name) for name in ("max_rounds", "max_attempts") if name in changes}
    teacher = Teacher(**{**GOOD, **changes})
    outcome = asyncio.run(synthesize_document("1", document, teacher, SynthesisSettings(kinds, **settings)))
    return outcome, teacher


def test_all_kinds_of_a_good_document():
    outcome, teacher = run(("simple", "complex", "paraphrase"))
    simple, complex_, paraphrase = outcome.signals
    assert simple.pairs == [Pair("q1?", "a", 0), Pair("q2?", "a", 0)]
    assert complex_.accepted
    assert paraphrase.text == "in other words"
    assert len(teacher.prompts) == 2 * (1 + 2 + 2 + 1) + 2


def test_uncovered_facts_bring_supplementary_questions_until_none_is_left():
    rounds = [{"questions": ["q3?"]}, {"questions": ["q1?", "q4?"]}, {"questions": []}]
    outcome, teacher = run(Coverage=rounds)
    (signal,) = outcome.signals
    assert [(pair.question, pair.round) for pair in signal.pairs] == [
        ("q1?", 0),
        ("q2?", 0),
        ("q3?", 1),
        ("q4?", 2),
    ]
    assert signal.rounds == 2
    assert "- q3?" in [prompt for name, prompt in teacher.prompts if name == "Coverage"][1]


def test_document_with_facts_left_after_the_last_round_is_rejected():
    numbers = iter(range(100))
    outcome, teacher = run(Coverage=lambda prompt: {"questions": [f"new {next(numbers)}?"]})
    (signal,) = outcome.signals
    assert (signal.accepted, signal.reason, signal.rounds) == (False, "not_covered", 10)
    assert teacher.count("Coverage") == 11
    assert not outcome.accepted


def test_repeated_questions_are_not_asked_again_and_end_the_rounds():
    outcome, teacher = run(Coverage={"questions": ["Q1", "q2 ?"]})
    assert outcome.signals[0].accepted
    assert teacher.count("Answer") == 2


def test_bad_pairs_are_dropped_and_counted():
    answers = {
        "q1?": {"answerable": False, "answer": ""},
        "q2?": {"answer": "wrong"},
        "q3?": {"answer": "right"},
    }
    outcome, _ = run(
        Questions={"questions": list(answers)},
        Answer=lambda prompt: answers[prompt.rsplit("Question: ")[-1]],
        PairVerdict=lambda prompt: {"correct": prompt.endswith("right")},
    )
    (signal,) = outcome.signals
    assert signal.pairs == [Pair("q3?", "right", 0)]
    assert signal.rejected == {"unanswerable": 1, "judged_incorrect": 1}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Questions": Reply("I'm sorry, I cannot do that.")}, "refusal"),
        ({"Questions": Reply("prose")}, "unparsable"),
        ({"Questions": Reply('{"questions": ["q', "length")}, "unfinished"),
        ({"Questions": {"questions": []}}, "no_pairs"),
        ({"PairVerdict": {"correct": False}}, "no_pairs"),
        ({"Coverage": Reply("prose")}, "unparsable"),
    ],
)
def test_reasons_of_rejected_questions(changes, reason):
    outcome, _ = run(**changes)
    assert (outcome.accepted, outcome.signals[0].reason) == (False, reason)


def test_one_unreadable_answer_costs_only_its_pair():
    outcome, _ = run(
        Answer=lambda p: Reply("prose") if "Question: q1" in p or "Your reply" in p else {"answer": "a"}
    )
    assert [pair.question for pair in outcome.signals[0].pairs] == ["q2?"]
    assert outcome.signals[0].rejected == {"unparsable": 1}


def test_paraphrase_is_written_again_with_what_was_wrong():
    verdicts = [{"missing": ["the year 1912"], "added": [], "faithful": False}, {"faithful": True}]
    outcome, teacher = run(("paraphrase",), ParaphraseVerdict=verdicts)
    (signal,) = outcome.signals
    assert (signal.accepted, signal.rounds) == (True, 2)
    second = [prompt for name, prompt in teacher.prompts if name == "Paraphrase"][1]
    assert 'left out: ["the year 1912"]' in second
    assert "added: nothing" in second


def test_paraphrase_that_stays_unfaithful_is_rejected():
    outcome, teacher = run(
        ("paraphrase",), ParaphraseVerdict={"added": ["x"], "faithful": True}, max_attempts=2
    )
    assert outcome.signals[0].reason == "not_faithful"
    assert teacher.count("Paraphrase") == 2


def test_empty_document_costs_no_call():
    outcome, teacher = run(document=" \n")
    assert [signal.reason for signal in outcome.signals] == ["empty_document"]
    assert not outcome.accepted and not teacher.prompts


def test_braces_in_documents_stay_text():
    _, teacher = run(document='{"a": {0}} {document}')
    assert '{"a": {0}} {document}' in teacher.prompts[0][1]


def test_seeds_depend_on_document_and_step_only():
    seeds = []

    class Watching(Teacher):
        async def complete(self, request):
            seeds.append((request.schema_name, request.temperature, request.seed))
            return await super().complete(request)

    for document in ("one", "one", "two"):
        seeds.append(document)
        asyncio.run(synthesize_document("1", document, Watching(**GOOD), SynthesisSettings(("simple",))))
    ones = seeds[1 : seeds.index("one", 1)]
    assert ones == seeds[seeds.index("one", 1) + 1 : seeds.index("two")]
    assert ones[0][2] != seeds[seeds.index("two") + 1][2]
    assert [temperature for name, temperature, _ in ones if name == "Answer"] == [0.0, 0.0]


def test_error_of_the_teacher_ends_the_other_calls():
    ended = []

    async def slow():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def broken():
        await asyncio.sleep(0)
        raise TeacherStoppedError("gone")

    with pytest.raises(TeacherStoppedError):
        asyncio.run(all_or_cancel(slow(), broken()))
    assert ended == [True]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kinds": ("simple", "hard")}, "`kinds` must name at least one of simple"),
        ({"kinds": ()}, "`kinds` must name"),
        ({"max_questions": 0}, "`max_questions` must be at least 1, got 0"),
        ({"max_rounds": -1}, "`max_rounds` must not be negative"),
        ({"temperature": -0.1}, "`temperature` must not be negative"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SynthesisSettings(**values)
