"""Worked examples of the answer metrics."""

import subprocess
import sys

import pytest
from clara.evaluation.metrics import (
    check_answers,
    cover_bag_of_tokens,
    cover_exact_match,
    exact_match,
    normalize_answer,
    score_answers,
    token_f1,
)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Eiffel-Tower!", "eiffeltower"),
        ("An apple, a day", "apple day"),
        ("Athens", "athens"),
        ("U.S.", "us"),
        ("Ünïcode", "ünïcode"),
        ("the", ""),
    ],
)
def test_normalize_answer(text, normalized):
    assert normalize_answer(text) == normalized


def test_exact_match_takes_any_alias():
    assert exact_match("the New York.", ["Boston", "new york"]) == 1
    assert exact_match("New York City", ["Boston", "new york"]) == 0


def test_token_f1_by_hand():
    # prediction: cat sat mat (3), gold: cat on mat (3), overlap 2 -> 4 / 6
    assert token_f1("the cat sat mat", ["a cat on mat"]) == pytest.approx(2 / 3)
    assert token_f1("the cat sat mat", ["dog", "cat sat mat"]) == 1
    assert token_f1("no overlap", ["something else"]) == 0
    assert token_f1("", ["something"]) == 0


def test_token_f1_counts_repeated_tokens():
    # prediction: x x x, gold: x y -> overlap 1 -> 2 / 5
    assert token_f1("x x x", ["x y"]) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("prediction", "answer", "value"),
    [("yes it is", "yes", 0.0), ("yes", "yes it is", 0.0), ("no", "no", 1.0), ("noanswer", "no answer", 0.0)],
)
def test_closed_answers_match_wholly_or_not_at_all(prediction, answer, value):
    assert token_f1(prediction, [answer]) == value


def test_the_two_cover_conventions_differ():
    scrambled = "york, a new place"
    assert cover_exact_match(scrambled, ["New York"]) == 0
    assert cover_bag_of_tokens(scrambled, ["New York"]) == 1

    alias = "It was Gotham."
    assert cover_exact_match(alias, ["New York", "Gotham"]) == 1
    assert cover_bag_of_tokens(alias, ["New York", "Gotham"]) == 0


def test_cover_exact_match_respects_word_borders():
    assert cover_exact_match("the party of art", ["art"]) == 1
    assert cover_exact_match("the party", ["art"]) == 0


def test_cover_bag_of_tokens_reads_true_as_yes():
    assert cover_bag_of_tokens("True.", ["yes"]) == 1
    assert cover_bag_of_tokens("yes", ["False"]) == 0


@pytest.mark.parametrize("metric", [exact_match, token_f1, cover_exact_match, cover_bag_of_tokens])
def test_empty_gold_is_an_error(metric):
    with pytest.raises(ValueError, match="`answers` is empty"):
        metric("x", [])
    with pytest.raises(ValueError, match="'The'"):
        metric("the prediction", ["x", "The"])
    with pytest.raises(TypeError, match="list of strings"):
        metric("x", "x")


def test_check_answers_names_a_wrong_type():
    with pytest.raises(TypeError, match="12"):
        check_answers([12])


def test_score_answers_gives_one_value_per_question():
    scores = score_answers(["Paris", "it was york new"], [["Paris"], ["New York"]])
    assert scores["exact_match"] == [1, 0]
    assert scores["token_f1"] == [1, pytest.approx(2 * 2 / 6)]
    assert scores["cover_exact_match"] == [1, 0]
    assert scores["cover_bag_of_tokens"] == [1, 1]
    with pytest.raises(ValueError, match="`predictions` has 1 items but `answers` has 2"):
        score_answers(["x"], [["x"], ["y"]])


def test_metrics_import_neither_torch_nor_transformers():
    code = "import sys, clara.evaluation.metrics, clara.evaluation.ranking\n"
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
