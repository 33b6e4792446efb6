"""Worked examples of what a paraphrase keeps."""

import pytest
from clara.evaluation.preservation import (
    answer_kind,
    find_dates,
    find_names,
    find_numbers,
    kept_shares,
    rouge_l,
)

SOURCE = (
    "In 1910, Marie Curie won 2 prizes on 5 June 2004. The University of Warsaw paid $1,925.50 by "
    "March 1999. However it was Paris. Einstein met Albert Einstein in May."
)


def test_rouge_l_by_hand():
    # Lin (2004): LCS("police killed the gunman", "police kill the gunman") = police the gunman -> 6 / 8
    assert rouge_l("police kill the gunman", "Police killed the gunman.") == 0.75
    assert rouge_l("the gunman kill police", "police killed the gunman") == 0.5
    assert rouge_l("same", "same") == 1
    assert rouge_l("", "same") == 0


def test_find_numbers_leaves_dates_out():
    assert find_numbers(SOURCE) == {"2", "1925.5"}
    assert find_numbers("the 21st of 3,000,000 and 4.0; B2") == {"21", "3000000", "4"}


@pytest.mark.parametrize(
    "text", ["5 June 2004", "5th of June 2004", "June 5, 2004", "June 5th 2004", "on 2004-06-05."]
)
def test_find_dates_reads_every_form_alike(text):
    assert find_dates(text) == {(2004, 6, 5)}


def test_find_dates_keeps_what_is_said():
    assert find_dates(SOURCE) == {(1910, None, None), (2004, 6, 5), (1999, 3, None)}
    assert find_dates("9,1999 and 12345 and 5 June") == {(None, 6, 5)}


def test_find_names():
    assert find_names(SOURCE) == {"marie curie", "university of warsaw", "paris", "albert einstein"}
    assert find_names("all in lower case") == set()


def test_kept_shares():
    shares = kept_shares("Curie got two prizes on June 5th, 2004; 1,925.5 dollars from Paris.", SOURCE)
    assert shares == {"numbers": 0.5, "dates": pytest.approx(1 / 3), "names": 0.25}
    assert kept_shares(SOURCE, SOURCE) == {"numbers": 1, "dates": 1, "names": 1}
    assert kept_shares("anything", "nothing to keep") == {"numbers": None, "dates": None, "names": None}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("Tulsa, Oklahoma", "name"),
        ("1,925 yards", "number"),
        ("June 2004", "date"),
        ("March", "date"),
        ("1984", "date"),
        ("the left hand", "other"),
    ],
)
def test_answer_kind(answer, kind):
    assert answer_kind(answer) == kind
