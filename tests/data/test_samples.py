"""Checks on the frozen sample corpus in ``data/samples``."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "data" / "samples"
WORDS = (90, 170)
SHARED_RUN = 6
YES_NO = re.compile(r"(is|are|was|were|do|does|did|has|have|had|can|could|will) ")


def read(name):
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def corpus():
    return read("corpus.jsonl")


@pytest.fixture(scope="module")
def questions():
    return read("questions.jsonl")


def words(text):
    return re.findall(r"\w+", text.casefold())


def runs(text, length):
    tokens = words(text)
    return {tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)}


def gold_text(question, corpus):
    return " ".join(corpus[i]["title"] + " " + corpus[i]["text"] for i in question["positives"]).casefold()


def test_counts(corpus, questions):
    assert len(corpus) >= 90
    assert len(questions) >= 48
    assert sum(len(q["positives"]) == 2 for q in questions) >= 8


def test_passages_have_exactly_the_documented_fields(corpus):
    for passage in corpus:
        assert set(passage) == {"id", "title", "text"}
        assert all(isinstance(v, str) and v == v.strip() and v for v in passage.values()), passage["id"]
        assert "\n" not in passage["text"]


def test_passages_are_distinct(corpus):
    for field in ("id", "title", "text"):
        assert len({p[field] for p in corpus}) == len(corpus), field
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", p["id"]) for p in corpus)


def test_passages_are_of_the_documented_length(corpus):
    lengths = {p["id"]: len(p["text"].split()) for p in corpus}
    assert {k: n for k, n in lengths.items() if not WORDS[0] <= n <= WORDS[1]} == {}


def test_questions_have_exactly_the_documented_fields(questions):
    for question in questions:
        assert set(question) == {"question", "answers", "positives"}
        assert question["question"].endswith("?")
        assert all(isinstance(a, str) and a.strip() == a and a for a in question["answers"])
        assert len({a.casefold() for a in question["answers"]}) == len(question["answers"]) > 0
    assert len({q["question"].casefold() for q in questions}) == len(questions)


def test_no_yes_no_questions(questions):
    assert [q for q in questions if YES_NO.match(q["question"].casefold())] == []
    assert [q for q in questions if q["answers"][0].casefold() in {"yes", "no"}] == []


def test_positives_are_line_numbers_of_the_corpus(corpus, questions):
    for question in questions:
        positives = question["positives"]
        assert len(positives) in (1, 2) and len(set(positives)) == len(positives)
        assert all(type(i) is int and 0 <= i < len(corpus) for i in positives), question


def test_a_passage_serves_at_most_two_questions(questions):
    uses = Counter(i for q in questions for i in q["positives"])
    assert {i: n for i, n in uses.items() if n > 2} == {}


def test_main_answer_occurs_in_a_positive(corpus, questions):
    for question in questions:
        answer = re.escape(question["answers"][0].casefold())
        assert re.search(rf"(?<!\w){answer}(?!\w)", gold_text(question, corpus)), question


def test_questions_are_not_copied_from_their_passages(corpus, questions):
    for question in questions:
        passages = gold_text(question, corpus)
        assert question["question"].casefold().rstrip("?") not in passages
        shared = runs(question["question"], SHARED_RUN) & runs(passages, SHARED_RUN)
        assert not shared, (question["question"], shared)


def test_no_question_names_its_own_single_document_answer(questions):
    for question in questions:
        if len(question["positives"]) == 1:
            assert not set(words(question["answers"][0])) <= set(words(question["question"])), question
