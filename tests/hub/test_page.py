"""Pieces of the page: texts are escaped, numbers are right, roles are there."""

import re

import pytest
from clara.hub.space import page

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


@pytest.mark.parametrize(
    "html",
    [
        page.head(EVIL, 16, 16),
        page.step(1, EVIL),
        page.hint(EVIL),
        page.notice(EVIL),
        page.answer(EVIL),
        page.empty(EVIL),
        page.passages([EVIL], [0.5], [EVIL]),
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
    assert "16.0 times fewer" in html and "1,600" in html
    assert re.findall(r"width:([\d.]+)%", page.token_bars(0, 0)) == ["0.0", "0.0"]


def test_numbers_have_their_nouns():
    assert "1 document (2,000 passages) in memory" in page.stored(1, 2000, 10, 5)


def test_passages_are_in_order_with_their_scores():
    html = page.passages(["a", "b"], [0.75, -0.2], ["one " * 40, "two"])
    assert html.index(">a<") < html.index(">b<")
    assert re.findall(r"width:(\d+)%", html) == ["75", "0"]
    assert "0.750" in html and "-0.200" in html
    assert html.count("<details>") == 2


def test_states_of_an_answer():
    assert 'aria-busy="true"' in page.answer("so far", writing=True)
    assert "wrote nothing" in page.answer("")
    assert 'role="alert"' in page.notice("x", error=True)
    assert 'value="3" max="9"' in page.progress(3, 9)


def test_lens_marks_what_is_likely():
    html = page.lens([[("bridge", 0.5), (" rail", 0.05)], [("\n", 0.01)]])
    assert html.count('class="likely"') == 1
    assert html.count("<tr>") == 2


def test_white_space_of_tokens_is_shown():
    assert page.visible(" rail") == "rail"
    assert page.visible(" \n") == "␣⏎" and page.visible("") == "∅"


def test_a_title_is_not_said_twice():
    html = page.passages(["titan"], [0.5], ["Titan\nA moon."])
    assert "<summary>A moon.</summary><p>Titan\nA moon.</p>" in html


def test_shorten():
    assert page.shorten("a\n b") == "a b"
    assert len(page.shorten("word " * 50)) <= 72 and page.shorten("word " * 50).endswith("…")
