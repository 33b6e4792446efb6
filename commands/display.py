"""What the commands show in a terminal: panels and tables."""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from textwrap import shorten
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

console = Console(highlight=False)
SUMMARY = (
    ("recall@{retrieval_top_k}", "{recall:.2f} (by chance {recall_by_chance:.2f})"),
    ("answers that contain a gold answer", "{contains_gold:.2f}"),
    ("tokens of the documents, as text", "{text_tokens:.0f}"),
    ("tokens of the documents, as memories", "{memory_tokens:.0f}"),
    ("seconds for the search", "{search_seconds:.2f}"),
    ("seconds for search and answer", "{answer_seconds:.2f}"),
)


def show_model(model: dict[str, Any]) -> None:
    """One line about the model, and a warning if its adapters are untrained."""
    console.print(
        f"Model {model['base']} with three adapters, {model['compression_rate']}x compression, "
        f"{model['dtype']} on {model['device']}, loaded in {model['load_seconds']:.1f} s"
    )
    if model["note"]:
        console.print(Panel(Text(model["note"]), title="untrained adapters", border_style="yellow"))


def show_skipped(skipped: Iterable[tuple[str, str]], most: int = 50) -> None:
    """What was left out of a corpus, on stderr, with the reasons and the number."""
    found = list(skipped)
    if found:
        print(f"Left out {len(found)} of the files or parts of them:", file=sys.stderr)
    for place, reason in found[:most]:
        print(f"  {place} {reason}", file=sys.stderr)
    if len(found) > most:
        print(f"  … and {len(found) - most} more", file=sys.stderr)


def show_store(store: dict[str, Any]) -> None:
    """Sizes and times of the corpus memory."""
    rate = store["passages"] / store["compress_seconds"]
    console.print(
        f"Compressed {store['documents']} documents ({store['passages']} passages, {store['text_tokens']:,} "
        f"tokens) to {store['memory_tokens']:,} memory tokens in {store['compress_seconds']:.1f} s "
        f"({rate:.1f} passages/s)"
    )
    console.print(
        f"Stored them ({store['bytes'] / 1e6:.1f} MB) in {store['save_seconds']:.2f} s and opened the store "
        f"again in {store['load_seconds']:.2f} s"
    )


def show_question(number: int, total: int, row: dict[str, Any]) -> None:
    """One question: its answer, the documents behind it, tokens and times."""
    facts = Table.grid(padding=(0, 2))
    answer = Text(" ".join(row["answer"].split()) or "(nothing)", style="bold")
    facts.add_row("answer", answer, mark(row["contains_gold"]))
    facts.add_row("gold", Text(" / ".join(row["gold"])))
    tokens = f"{row['text_tokens']} as text, {row['memory_tokens']} as memories"
    facts.add_row("tokens", f"{tokens} ({row['text_tokens'] / row['memory_tokens']:.1f}x fewer)")
    search, whole = row["search_seconds"], row["answer_seconds"]
    facts.add_row("time", f"search {search:.2f} s, search and answer {whole:.2f} s")
    question = Text(row["question"], style="bold cyan")
    body = [question, facts, documents_table(row["documents"])]
    if row["missed"]:
        body.append(Text(f"not found: {', '.join(row['missed'])}", style="red"))
    title = f"question {number} of {total}"
    console.print(Panel(Group(*body), title=title, title_align="left", border_style="cyan"))


def documents_table(documents: Iterable[dict[str, Any]], title: str | None = None) -> Table:
    """Documents, best first; a mark on the right ones and how they begin, where that is known."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("", width=1)
    table.add_column("cosine", justify="right")
    table.add_column("document")
    table.add_column("begins" if title else "")
    for item in documents:
        text = shorten(item.get("text", ""), 46, placeholder=" …")
        score, name = f"{item['score']:.3f}", Text(item["id"])
        table.add_row(mark(item.get("positive")), score, name, Text(text, style="dim"))
    return table


def mark(right: bool | None) -> Text:
    """A tick, a cross, or nothing where right and wrong are unknown."""
    if right is None:
        return Text("")
    return Text("✓", style="green") if right else Text("✗", style="red")


def show_summary(summary: dict[str, Any], trained: bool) -> None:
    """The means over all questions."""
    table = Table(title=f"summary of {summary['questions']} questions", box=box.ROUNDED, show_header=False)
    for name, value in SUMMARY:
        table.add_row(name.format(**summary), value.format(**summary))
    state = "trained" if trained else Text("untrained: quality means nothing", style="yellow")
    table.add_row("adapters", state)
    console.print(table)


def show_next(folder: str, model: str | None) -> None:
    """How to go on with a store that was kept."""
    option = f" --model {model}" if model else ""
    console.print(
        f'The corpus memory is in {folder}. Ask it: clara ask {folder} "your question"{option}',
        soft_wrap=True,
    )


def show_sources(found: dict[str, Any]) -> None:
    """The documents behind an answer that was printed already, best first."""
    console.print(documents_table(found["documents"], "answered from"))
    console.print(f"{found['seconds']:.2f} s for search and answer")


def show_sizes(corpus: Any, count: Any, sizes: Iterable[Any]) -> None:
    """What a corpus would take in every format."""
    about = "" if count.exact else "about "
    console.print(
        f"{corpus.documents:,} documents, {about}{count.passages:,} passages with {count.vectors:,} memory "
        f"vectors, {corpus.text_bytes:,} bytes of text, {len(corpus.starts)} parts of {corpus.part_size:,} "
        "documents"
    )
    table = Table("memories, or", box=box.SIMPLE)
    for name in ("bytes a passage", "bytes in all", "times the texts"):
        table.add_column(name, justify="right")
    for size in sizes:
        table.add_row(size.name, f"{size.each:,.0f}", f"{size.total:,}", f"{size.texts:.2f}")
    console.print(table)
    console.print("A store holds one format of memories, the search vectors, and the texts, compressed.")


@contextmanager
def watching(look: Callable[[bool], None], seconds: float = 0.5) -> Iterator[None]:
    """Calls `look` every so many seconds while the block runs, with False, and once at its end, with True."""
    ended = threading.Event()

    def watch() -> None:
        over = False
        while not over:
            over = ended.wait(seconds)
            look(over)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
