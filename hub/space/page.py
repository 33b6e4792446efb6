"""Pieces of HTML of the demonstration page; every text of a user or a model is escaped."""

from collections.abc import Sequence
from html import escape

CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; --clara: #0f766e;
  --clara-ink: #115e59; --clara-soft: #d5f0ec; --clara-grey: #94a3b8; --clara-quiet: #526071; }
.dark .gradio-container { --clara: #2dd4bf; --clara-ink: #99f6e4; --clara-soft: #134e4a;
  --clara-grey: #64748b; --clara-quiet: #a9b6c6; }
.clara-head h1 { font-size: 1.9rem; line-height: 1.2; margin: 0.6rem 0 0.4rem; letter-spacing: -0.02em; }
.clara-head p, .clara-hint { color: var(--clara-quiet); margin: 0; max-width: 68ch; line-height: 1.5; }
.clara-card { background: var(--background-fill-primary); border: 1px solid var(--border-color-primary);
  border-radius: 12px !important; padding: 1.1rem 1.2rem !important; overflow: visible !important; }
.clara-card .form { gap: 1.2rem; background: transparent; border: 0; overflow: visible; }
#compress, #sample, #ask { white-space: nowrap; }
#k { overflow: visible !important; }
#files { border: 1px dashed var(--clara-grey) !important; border-radius: 8px; }
.clara-step { font-size: 1.1rem; font-weight: 600; margin: 0; }
.clara-step span { display: inline-block; width: 1.8em; height: 1.8em; line-height: 1.8em;
  margin-right: 0.5em; border-radius: 50%; text-align: center; font-size: 0.85em;
  background: var(--clara-soft); color: var(--clara-ink); }
.clara-notice { border-left: 4px solid #b45309; background: var(--background-fill-secondary);
  padding: 0.6rem 0.9rem; border-radius: 4px; color: var(--body-text-color); overflow-wrap: anywhere; }
.clara-notice.error { border-color: #dc2626; }
.clara-status { color: var(--body-text-color); min-height: 1.5em; }
.clara-progress { height: 0.6rem; border-radius: 3px; background: var(--clara-soft); margin-top: 0.4rem;
  overflow: hidden; }
.clara-progress i { display: block; height: 100%; background: var(--clara); transition: width 0.3s; }
.clara-left-out { margin: 0.5rem 0 0; padding: 0 0 0 1.1rem; font-size: 0.9rem; color: var(--clara-quiet);
  overflow-wrap: anywhere; }
.clara-chips { gap: 0.5rem !important; flex-wrap: wrap; }
.clara-chips button { border-radius: 999px; font-weight: 400; font-size: 0.9rem; flex: 0 1 auto !important;
  min-width: 0 !important; text-align: left; white-space: normal; }
.clara-answer { font-size: 1.1rem; line-height: 1.55; padding: 0.9rem 1rem; border-radius: 8px;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary);
  min-height: 4.2rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.clara-answer.empty { color: var(--clara-quiet); font-size: 0.95rem; border-style: dashed; }
.clara-writing::after { content: "\\258d"; color: var(--clara); }
.clara-bars { margin: 0.9rem 0 0; font-size: 0.9rem; }
.clara-bars p { margin: 0 0 0.3rem; }
.clara-bars div { display: grid; grid-template-columns: 7rem 1fr 4rem; gap: 0.6rem; align-items: center;
  margin: 0.3rem 0; }
.clara-bars i, .clara-score i { display: block; height: 0.7rem; border-radius: 3px; min-width: 2px;
  background: var(--clara-grey); }
.clara-bars .memory i, .clara-score i { background: var(--clara); }
.clara-bars b { text-align: right; font-variant-numeric: tabular-nums; font-weight: 600; }
.clara-passages { list-style: none !important; margin: 0 !important; padding: 0 !important; }
.clara-passages li { border: 1px solid var(--border-color-primary); border-radius: 8px; margin: 0 0 0.5rem;
  padding: 0.55rem 0.8rem; background: var(--background-fill-primary); list-style: none; }
.clara-passages .name { font-weight: 600; overflow-wrap: anywhere; }
.clara-passages .name small { font-weight: 400; color: var(--clara-quiet); }
.clara-passages mark, .clara-passage mark { background: var(--clara-soft); color: inherit; border-radius: 3px;
  padding: 0 0.1em; }
.clara-score { display: grid; grid-template-columns: 1fr 3.2rem; gap: 0.6rem; align-items: center;
  font-size: 0.85rem; font-variant-numeric: tabular-nums; margin: 0.25rem 0; }
.clara-score span { text-align: right; }
.clara-score i { height: 0.35rem; }
.clara-passage { margin-top: 0.8rem; }
.clara-passages summary, .clara-passage summary { cursor: pointer; font-size: 0.9rem;
  color: var(--clara-quiet); }
.clara-passages p, .clara-passage p { margin: 0.3rem 0 0; font-size: 0.92rem; line-height: 1.5;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.clara-lens { border-collapse: collapse; width: 100%; font-size: 0.9rem; margin-top: 0.6rem;
  border: 0 !important; }
.clara-lens caption { text-align: left; margin-bottom: 0.3rem; }
.clara-lens th, .clara-lens td { border: 0 !important; padding: 0.2rem 0 !important; text-align: left; }
.clara-lens th { font-weight: 600; width: 3rem; white-space: nowrap; vertical-align: top;
  color: var(--clara-quiet); }
.clara-lens tr { border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; }
.clara-lens code { display: inline-block; margin: 0.1rem 0.3rem 0.1rem 0; padding: 0.05rem 0.4rem;
  vertical-align: top; border-radius: 4px; background: var(--background-fill-secondary);
  color: var(--body-text-color);
  border: 1px solid var(--border-color-primary); white-space: pre; max-width: 100%; overflow: hidden; }
.clara-lens code.likely { background: var(--clara-soft); color: var(--clara-ink); border-color: transparent; }
.gradio-container :focus-visible { outline: 3px solid var(--clara) !important; outline-offset: 2px; }
@media (prefers-reduced-motion: no-preference) {
  .clara-writing::after { animation: blink 1s steps(2) infinite; } }
@keyframes blink { 50% { opacity: 0; } }
@media (max-width: 640px) { .gradio-container .main { padding: 1rem !important; }
  .gradio-container .row:not(.clara-chips) { flex-direction: column !important; }
  .gradio-container .row:not(.clara-chips) > * { width: 100% !important; min-width: 0 !important;
    flex-basis: auto !important; }
  .clara-bars div { grid-template-columns: 6.2rem 1fr 3.4rem; }
  .clara-card { padding: 0.9rem 0.8rem !important; } .clara-head h1 { font-size: 1.5rem; } }
"""


def head(model: str, rate: int) -> str:
    """The title of the page and what it is about."""
    return (
        '<div class="clara-head"><h1>Ask your documents</h1><p>Documents are compressed into memories: one '
        f"vector for every {rate} tokens of text. A question finds the passages whose memories are nearest "
        f"to it, and the answer is read from these memories alone. Model: {escape(model)}.</p></div>"
    )


def step(number: int, title: str) -> str:
    """A numbered heading."""
    return f'<h2 class="clara-step"><span aria-hidden="true">{number}</span>{escape(title)}</h2>'


def hint(text: str) -> str:
    """A quiet line."""
    return f'<p class="clara-hint">{escape(text)}</p>'


def notice(text: str, error: bool = False) -> str:
    """A line that must be seen; an error is announced at once."""
    kind, role = ("clara-notice error", "alert") if error else ("clara-notice", "note")
    return f'<div class="{kind}" role="{role}">{escape(text)}</div>'


def progress(done: int, total: int) -> str:
    """How far compressing has come."""
    words = f"Compressing: {done} of {total} passages"
    return (
        f'<div class="clara-status" role="status">{words}<div class="clara-progress" role="progressbar" '
        f'aria-label="{words}" aria-valuenow="{done}" aria-valuemin="0" aria-valuemax="{total}">'
        f'<i style="width:{100 * done / max(total, 1):.0f}%"></i></div></div>'
    )


def stored(
    documents: int, passages: int, text_tokens: int, vectors: int, left_out: Sequence[str] = ()
) -> str:
    """What is in memory now, and what was left out."""
    words = f"{counted(documents, 'document')} ({counted(passages, 'passage')}) in memory, ready to be asked."
    items = "".join(f"<li>{escape(line)}</li>" for line in left_out)
    list_ = f'<ul class="clara-left-out" aria-label="Left out">{items}</ul>' if items else ""
    return f'<div class="clara-status" role="status">{words}</div>{list_}' + token_bars(text_tokens, vectors)


def counted(number: int, word: str) -> str:
    """A number with its noun."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def token_bars(text_tokens: int, vectors: int) -> str:
    """Tokens of text against the vectors of their memories, drawn to one scale."""
    longest = max(text_tokens, vectors, 1)
    factor = text_tokens / max(vectors, 1)
    told = f"{counted(text_tokens, 'token')} of text → {counted(vectors, 'vector')}, {factor:.1f} times fewer"
    rows = (("", "tokens of text", text_tokens), ("memory", "vectors", vectors))
    bars = "".join(
        f'<div class="{kind}"><span>{label}</span><i style="width:{100 * count / longest:.1f}%"></i>'
        f"<b>{count:,}</b></div>"
        for kind, label, count in rows
    )
    return f'<div class="clara-bars" role="img" aria-label="{told}"><p>{told}</p>{bars}</div>'


def answer(text: str, writing: bool = False) -> str:
    """An answer, or the part of it that is written."""
    kind = "clara-answer clara-writing" if writing else "clara-answer"
    shown = escape(text) or ("" if writing else "<em>The model wrote nothing.</em>")
    return f'<div class="{kind}" aria-live="polite" aria-busy="{str(writing).lower()}">{shown}</div>'


def empty(text: str) -> str:
    """What stands where there is nothing yet."""
    return f'<div class="clara-answer empty">{escape(text)}</div>'


def passages(
    names: Sequence[str], scores: Sequence[float], texts: Sequence[str], spans: Sequence[tuple[int, int]]
) -> str:
    """The chosen passages, best first: name, cosine, the likely sentence; each opens to its text.

    A span is start and end of the sentence that the answer likely comes from.
    """
    rows = "".join(
        f'<li><div class="name">{escape(name)}</div><div class="clara-score" title="cosine">'
        f'<i style="width:{100 * min(max(score, 0.0), 1.0):.0f}%"></i>'
        f'<span aria-label="cosine {score:.3f}">{score:.3f}</span></div>'
        f"{opened(text, span)}</li>"
        for name, score, text, span in zip(names, scores, texts, spans, strict=True)
    )
    return f'<ol class="clara-passages" aria-label="Chosen passages, best first">{rows}</ol>'


def passage(text: str) -> str:
    """One passage, to compare with."""
    return (
        f'<div class="clara-passage">{hint("The passage itself was not read for this:")}{opened(text)}</div>'
    )


def opened(text: str, span: tuple[int, int] | None = None) -> str:
    """A text that opens from its likely sentence, which is marked in it, or from its beginning."""
    start, end = span or (0, 0)
    beginning = escape(shorten(text[start:end] if span else text.split("\n", 1)[-1], 160))
    marked = f"<mark>{escape(text[start:end])}</mark>" if span else ""
    whole = f"{escape(text[:start])}{marked}{escape(text[end:])}"
    return f"<details><summary>{beginning}</summary><p>{whole}</p></details>"


def shorten(text: str, length: int = 72) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def lens(rows: Sequence[Sequence[tuple[str, float]]]) -> str:
    """The likeliest tokens at each vector of a question's memory; marked are those above one in ten.

    Neighbouring vectors with the same tokens share a row: "3–7".
    """
    groups: list[tuple[int, int, Sequence[tuple[str, float]]]] = []
    for number, row in enumerate(rows, 1):
        if groups and [token for token, _ in groups[-1][2]] == [token for token, _ in row]:
            groups[-1] = (groups[-1][0], number, groups[-1][2])
        else:
            groups.append((number, number, row))
    body = "".join(
        f'<tr><th scope="row">{first if first == last else f"{first}–{last}"}</th><td>'
        + "".join(
            f'<code class="{"likely" if share > 0.1 else ""}" title="{share:.1%}">'
            f"{escape(visible(token))}</code>"
            for token, share in row
        )
        + "</td></tr>"
        for first, last, row in groups
    )
    caption = '<caption class="clara-hint">Vectors of the question, and their likeliest words</caption>'
    return f'<table class="clara-lens">{caption}{body}</table>'


def visible(token: str) -> str:
    """A token without the white space around it; signs in its place if there is nothing else."""
    signs = token.replace("\n", "⏎").replace(" ", "␣").replace("\t", "⇥")
    return token.strip() or signs or "∅"
