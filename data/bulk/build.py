"""Building the parts of a plan from files; the store appears at once, when all parts are done."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import torch

from ...processing_clara import to_passages
from ...store.build import BuildPlan, StoreBuild
from .plan import corpus_of, part_documents, part_length

BATCHES_PER_CHUNK = 8


def count_done(build: StoreBuild) -> tuple[int, int]:
    """How many documents and passages are compressed, those of unfinished parts included."""
    if not build.begun:
        return 0, 0
    corpus = corpus_of(build.plan)
    counts = [_count(build, corpus, part) for part in range(len(corpus.starts))]
    return sum(documents for documents, _ in counts), sum(passages for _, passages in counts)


def _count(build: StoreBuild, corpus: Any, part: int) -> tuple[int, int]:
    progress = _progress(build, part)
    noted = progress.read_text().split() if progress.is_file() else []
    documents, passages = map(int, noted) if len(noted) == 2 else (0, 0)
    return (part_length(corpus, part) if build.is_done(part) else documents), passages


def _progress(build: StoreBuild, part: int) -> Path:
    return build.state / f"progress-{part:05d}"


def build_parts(output: str | Path, parts: Iterable[int], open_model: Callable[[], Any]) -> None:
    """Builds those of some parts that are not done, with the plan's number of threads.

    Args:
        output: the folder of the store, where a build was begun.
        parts: their numbers.
        open_model: opens the model; equal ones open it once in a process.

    Raises:
        ValueError: the model is not the one of the plan, a document is malformed, or a file was edited.
        RuntimeError: another process is at work on a part.
    """
    build = StoreBuild(output)
    plan = build.plan
    waiting = [part for part in parts if not build.is_done(part)]
    if not waiting:
        return
    model = _opened(open_model)
    if model.memory_fingerprint() != plan.fingerprint:
        raise ValueError("The model is not the one with which the build was begun: give `--model` as then.")
    before = torch.get_num_threads()
    torch.set_num_threads(plan.source["threads"])
    try:
        for part in waiting:
            build.write(part, memories(build, plan, part, model))
    finally:
        torch.set_num_threads(before)


def memories(build: StoreBuild, plan: BuildPlan, part: int, model: Any) -> Iterator[Any]:
    """The corpus memories of one part, some batches at a time; notes how far it is."""
    corpus, size = corpus_of(plan), plan.source["batch_size"]
    documents = done = 0
    with _progress(build, part).open("w") as progress:
        for chunk in chunks(part_documents(corpus, part), BATCHES_PER_CHUNK * size):
            passages = to_passages(chunk, model.processor.split_documents)
            tick = _noter(progress, documents, len(chunk), done, len(passages.texts))
            yield model.compress_passages(passages, size, plan.dtype, tick=tick)
            documents, done = documents + len(chunk), done + len(passages.texts)


def _noter(progress: TextIO, before: int, documents: int, done: int, passages: int) -> Callable[[int], None]:
    """Notes after every batch of a chunk how many documents and passages of the part are compressed."""
    first = done

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress.seek(0)
        progress.write(f"{before + documents * (done - first) // passages} {done}")
        progress.flush()

    return tick


@lru_cache(maxsize=1)
def _opened(open_model: Callable[[], Any]) -> Any:
    return open_model()


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive lists of at most `size` items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
