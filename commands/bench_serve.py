"""Load-test `clara serve`: latency, throughput, memory and refusals under concurrent clients.

Starts a server on a memory of the sample corpus, in a process of its own, and measures in one run: batches
answered by `model.generate` itself (the ideal), one client, many clients, and a burst beyond the queue.
Nothing else should run beside it. It takes three times `--seconds`, and a minute.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..data.sample_corpus import CORPUS, sample_questions
from .demo import timed
from .models import add_model_arguments, load_model

LATENCY, THROUGHPUT = 2.0, 3.0
GROWTH = 1.05
MAIN = "import sys; from clara.commands.main import main; sys.exit(main())"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara bench-serve`."""
    add = parser.add_argument
    add_model_arguments(parser)
    add("--merge-adapters", action="store_true", help="in the server and in the ideal batches")
    add("--clients", type=int, default=16, help="that ask at once")
    add("--seconds", type=float, default=120, help="of each part")
    add("--new-tokens", type=int, default=64, help="of each answer")
    add("--repeats", type=int, default=3, help="ideal batches, before and after")
    add("--max-queue", type=int, default=64, help="of the server")
    add("--output", type=Path, metavar="FOLDER", help="gets serve.json and serve.md")


def run(arguments: argparse.Namespace) -> None:
    """Measures, prints the table, writes it."""
    if arguments.max_queue < arguments.clients:
        raise ValueError(
            f"`--max-queue` must be at least `--clients` ({arguments.clients}), got {arguments.max_queue}: "
            "the clients' own requests would be refused."
        )
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, folder)
    from ..evaluation.tables import write_report

    page = render(result)
    print(page)
    if arguments.output:
        write_report(arguments.output / "serve", result, page)


def measure(arguments: argparse.Namespace, folder: str) -> dict[str, Any]:
    """All parts in one run, as JSON values."""
    from ..data.documents import read_documents
    from ..retrieval_clara import format_name
    from ..serving.load import run_burst, run_load

    questions = [row["question"] for row in sample_questions()]
    model, trained = load_model(arguments.model, arguments.device)
    if arguments.merge_adapters:
        model.merge_adapters()
    memory = model.build_memory(list(read_documents(CORPUS)), show_progress=False)
    memory.save_pretrained(folder)
    new, rows = arguments.new_tokens, rows_of(model.config, len(memory))
    fields = {"model": "clara", "max_tokens": new, "min_tokens": new}
    batch = (questions * arguments.clients)[: arguments.clients]
    ideal = ideal_seconds(model, memory, batch, new, arguments.repeats)
    with server(arguments, folder, rows * arguments.clients) as (url, resident):
        run_load(url, questions, arguments.clients, 5, fields)
        one = run_load(url, questions, 1, arguments.seconds, fields)
        many = run_load(url, questions, arguments.clients, arguments.seconds, fields, resident)
        beyond = arguments.clients + 2 * arguments.max_queue
        burst, silent = run_burst(url, questions[0], beyond, fields)
    ideal += ideal_seconds(model, memory, batch, new, arguments.repeats)
    return {
        "model": arguments.model or "default",
        "trained": trained,
        "dtype": format_name(model.dtype),
        "merged": arguments.merge_adapters,
        "clients": arguments.clients,
        "rows": rows,
        "seconds": arguments.seconds,
        "new_tokens": new,
        "ideal_batch_seconds": ideal,
        "ideal_median": statistics.median(ideal),
        "one": part(one),
        "many": part(many),
        "p95_over_ideal": many.percentile(95) / statistics.median(ideal),
        **compared(one, many),
        "burst": {"requests": beyond, "statuses": burst.statuses, "429_without_retry_after": silent},
    }


def rows_of(config: Any, passages: int) -> int:
    """How many answers a server writes to one question of a memory."""
    from ..prompts_clara import alone_and_together

    read = range(min(config.retrieval_top_k, passages))
    return len(alone_and_together(read, config.reading_joint)) if config.reading == "each" else 1


def compared(one: Any, many: Any) -> dict[str, Any]:
    """Many clients beside one: throughput, memory of the server, answers to the same questions."""
    half = len(many.samples) // 2
    both = one.answers.keys() & many.answers.keys()
    return {
        "throughput_over_one": many.throughput / one.throughput,
        "resident_first_half": max(many.samples[:half] or [0]),
        "resident_second_half": max(many.samples[half:] or [0]),
        "resident_each_second": many.samples,
        "questions_in_both": len(both),
        "answered_otherwise": sum(many.answers[question] != one.answers[question] for question in both),
    }


def ideal_seconds(model: Any, memory: Any, questions: list[str], new: int, repeats: int) -> list[float]:
    """Seconds of whole batches by `model.generate`; one before them does not count."""
    options = {"max_new_tokens": new, "min_new_tokens": new}
    return [timed(model.generate, questions, memory, **options)[1] for _ in range(repeats + 1)][1:]


def part(load: Any) -> dict[str, Any]:
    """One part as JSON values."""
    return {
        "answers": len(load.latencies),
        "statuses": load.statuses,
        "errors": load.errors,
        "answers_per_second": load.throughput,
        "tokens_per_second": load.tokens / load.seconds,
        "p50": load.percentile(50),
        "p95": load.percentile(95),
        "p99": load.percentile(99),
    }


@contextmanager
def server(arguments: argparse.Namespace, folder: str, batch: int) -> Iterator[tuple[str, Any]]:
    """A server of so many answers at once: its address, and a function that gives its resident bytes."""
    import httpx
    import psutil

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", MAIN, "serve", "--memory", folder, "--port", str(port)]
    command += ["--max-batch", str(batch), "--max-queue", str(arguments.max_queue)]
    for name in ("model", "device"):
        if getattr(arguments, name):
            command += [f"--{name}", getattr(arguments, name)]
    command += ["--merge-adapters"] if arguments.merge_adapters else []
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended at once, with status {process.returncode}")
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.25)
        yield url, lambda: psutil.Process(process.pid).memory_info().rss
    finally:
        process.terminate()
        process.wait(120)


def render(result: dict[str, Any]) -> str:
    """The result as a page."""
    from ..evaluation.tables import markdown_table

    rows = [
        [name, str(side["answers"]), str(side["errors"])]
        + [f"{side[key]:.2f}" for key in ("p50", "p95", "p99", "answers_per_second", "tokens_per_second")]
        for name, side in (("1 client", result["one"]), (f"{result['clients']} clients", result["many"]))
    ]
    head = ["", "answers", "errors", "p50 (s)", "p95 (s)", "p99 (s)", "answers/s", "tokens/s"]
    growth = result["resident_second_half"] / max(result["resident_first_half"], 1)
    single = f"at least {THROUGHPUT:g}"
    filled = f"{single} where a question is one row; here one client fills {result['rows']}"
    checks = [["p95 over ideal", f"{result['p95_over_ideal']:.2f}", f"at most {LATENCY:g}"]]
    wanted = single if result["rows"] == 1 else filled
    checks.append(["throughput over one", f"{result['throughput_over_one']:.2f}", wanted])
    checks.append(["errors of all clients", str(result["many"]["errors"]), "0"])
    both = f"answers that differ from one client's, of {result['questions_in_both']} questions"
    exact = "0" if result["dtype"] == "float32" else f"0 in float32; {result['dtype']} rounds by batch"
    checks.append([both, str(result["answered_otherwise"]), exact])
    checks.append(["peak memory, second half over first", f"{growth:.3f}", f"at most {GROWTH:g}"])
    burst = result["burst"]
    note = (
        f"{result['new_tokens']} new tokens a request, {result['seconds']:g} s a part; a batch of "
        f"{result['clients']} by `model.generate` takes {result['ideal_median']:.2f} s (median of "
        f"{len(result['ideal_batch_seconds'])}). A burst of {burst['requests']} requests got "
        f"{burst['statuses']}, {burst['429_without_retry_after']} of the 429 without Retry-After."
    )
    tables = f"{markdown_table(head, rows)}\n\n{markdown_table(['', 'measured', 'must be'], checks)}"
    return f"# Serving under load\n\n{note}\n\n{tables}\n"
