"""Pieces of the page: texts are escaped, numbers are right, roles are there."""

import re

import pytest
from clara.hub.space import page

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


@pytest.mark.parametrize(
    "html",
    [
        page.head(EVIL, 16),
        page.step(1, EVIL),
        page.hint(EVIL),
        page.notice(EVIL),
        page.answer(EVIL),
        page.empty(EVIL),
        page.passages([EVIL], [0.5], [EVIL], [(1, 9)]),
        page.lens([[(EVIL, 0.3)]]),
        page.passage(EVIL),
    ],
)
def test_texts_are_escaped(html):
    assert "<script" not in html and "<img" not in html
    assert "&lt;script&gt;" in html


def test_token_bars_have_one_scale():
    html = page.token_bars(1600, 100)
    assert re.findall(r"width:([\d.]+)%", html) == ["100.0", "6.2"]
    assert "1,600 tokens of text → 100 vectors, 16.0 times fewer" in html
    assert re.findall(r"width:([\d.]+)%", page.token_bars(0, 0)) == ["0.0", "0.0"]


def test_numbers_have_their_nouns():
    html = page.stored(1, 2000, 10, 5, [f"a.bin {EVIL}"])
    assert "1 document (2,000 passages) in memory" in html
    assert html.count("<li>") == 1 and "a.bin &lt;script" in html
    assert "<ul" not in page.stored(1, 1, 1, 1)


def test_passages_are_in_order_with_their_scores():
    html = page.passages(["a", "b"], [0.75, -0.2], ["one " * 40 + "Two. Three.", "two"], [(165, 171), (0, 3)])
    assert "<mark>Three.</mark>" in html and "<summary>Three.</summary>" in html
    assert html.index(">a<") < html.index(">b<")
    assert re.findall(r"width:(\d+)%", html) == ["75", "0"]
    assert "0.750" in html and "-0.200" in html
    assert html.count("<details>") == 2


def test_states_of_an_answer():
    assert 'aria-busy="true"' in page.answer("so far", writing=True)
    assert "wrote nothing" in page.answer("")
    assert 'role="alert"' in page.notice("x", error=True)
    html = page.progress(3, 9)
    assert 'aria-valuenow="3"' in html and "width:33%" in html and "3 of 9 passages" in html
    assert "width:0%" in page.progress(0, 0)


def test_lens_marks_what_is_likely():
    html = page.lens([[("bridge", 0.5), (" rail", 0.05)], [("\n", 0.01)]])
    assert html.count('class="likely"') == 1
    assert html.count("<tr>") == 2


def test_equal_rows_of_the_lens_are_one():
    row, other = [("bridge", 0.5), ("rail", 0.1)], [("sea", 0.5)]
    html = page.lens([row, [("bridge", 0.4), ("rail", 0.2)], other, row])
    assert re.findall(r'row">([^<]+)<', html) == ["1–2", "3", "4"]


def test_white_space_of_tokens_is_shown():
    assert page.visible(" rail") == "rail"
    assert page.visible(" \n") == "␣⏎" and page.visible("") == "∅"


def test_a_title_is_not_said_twice():
    assert "<summary>A moon.</summary><p>Titan\nA moon.</p>" in page.opened("Titan\nA moon.")


def test_shorten():
    assert page.shorten("a\n b") == "a b"
    assert len(page.shorten("word " * 50)) <= 72 and page.shorten("word " * 50).endswith("…")
