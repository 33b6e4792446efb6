"""Latency of one question: from stored memories, against the same documents' text in the same template."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from clara.data.text_prompts import text_prompt_ids
from clara.memory_clara import CorpusMemory
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from .report import Line, Section, line
from .sizes import Sizes
from .timing import WALL, Ratio, measure, nothing, ratio
from .workload import sample_documents, sample_questions

FIRST = "first_token"
NEEDED = {5: 5.0}
PATHS = ("memories", "memories, merged", "text")
FASTEST = "memories, merged"


class FirstToken(BaseStreamer):
    """Notes when the first generated token came; the prompt comes before it."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.calls = 0
        self.seconds = float("nan")

    def put(self, value: Tensor) -> None:
        """Called with the prompt, then with each token."""
        self.calls += 1
        if self.calls == 2:
            self.seconds = time.perf_counter() - self.start

    def end(self) -> None:
        """Called after the last token."""


def bench_latency(model: Any, sizes: Sizes, repeats: int) -> Section:
    """Times the way from a question to its first token, and to the last, for several numbers of documents.

    All paths start at the question's string, warm, batch 1. The path from memories reads the question,
    searches the store and answers, with adapters worn as they are or merged (`merge_adapters`, in a copy of
    the model); the path from text is given the documents that were found, so its own search costs nothing.

    Args:
        model: A CLaRa model with its processor.
        sizes: How much.
        repeats: Rounds; half as many for more documents than the paper's five.
    """
    texts = sample_documents(model.processor.tokenizer, sizes.store, sizes.document_tokens)
    memory = model.build_memory(texts, batch_size=sizes.batch_size, show_progress=False)
    questions = [question for question, _, _ in sample_questions()]
    lines, ratios, facts = [], [], {}
    merged = copy.deepcopy(model)
    merged.merge_adapters()
    for count in sizes.documents:
        rounds = repeats if count <= 5 else max(1, repeats // 2)
        found = [model.retrieve(question, memory, count).indices for question in questions[:rounds]]
        runs = latency_runs(model, merged, memory, questions, found, sizes.new_tokens)
        seconds = measure(runs, rounds, model.device)
        read = {path: tokens_read(model, questions[0], memory, found[0], path) for path in PATHS}
        lines += _lines(count, seconds, sizes.new_tokens)
        ratios += _ratios(count, seconds, sizes.new_tokens)
        facts[f"tokens read by the generator, {count} documents"] = read
    parts = measure(part_runs(model, memory, questions, 5), repeats, model.device)
    lines += [line(name, marks[WALL]) for name, marks in parts.items()]
    title = (
        f"One question over {len(memory)} stored documents of about {sizes.document_tokens} tokens, batch 1"
    )
    return Section("latency", title, lines, ratios, facts)


def latency_runs(
    model: Any,
    merged: Any,
    memory: CorpusMemory,
    questions: Sequence[str],
    found: Sequence[list[int]],
    new_tokens: int,
) -> dict[str, Callable[[int], dict[str, float]]]:
    """All paths; each round asks the next question of those whose documents are in `found`."""
    count = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}

    def from_memories(answering: Any, number: int) -> dict[str, float]:
        clock = FirstToken()
        answering.generate(questions[number], memory, len(found[number]), streamer=clock, **count)
        return {FIRST: clock.seconds}

    def from_text(number: int) -> dict[str, float]:
        clock = FirstToken()
        read_text(model, questions[number], _texts(memory, found[number]), streamer=clock, **count)
        return {FIRST: clock.seconds}

    runs = partial(from_memories, model), partial(from_memories, merged), from_text
    return dict(zip(PATHS, runs, strict=True))


@torch.no_grad()
def read_text(
    model: Any,
    question: str,
    documents: Sequence[str],
    streamer: BaseStreamer | None = None,
    **generation: Any,
) -> str:
    """What the plain base answers from the documents' text, in the template that holds the memories."""
    tokenizer = model.processor.tokenizer
    ids = torch.tensor([text_prompt_ids(tokenizer, question, documents)], device=model.device)
    config = GenerationConfig(**{**model.generation_config.to_diff_dict(), **generation})
    sequences = model.decoder.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=streamer
    )
    return tokenizer.decode(sequences[0, ids.shape[1] :], skip_special_tokens=True).strip()


def tokens_read(model: Any, question: str, memory: CorpusMemory, found: Sequence[int], path: str) -> int:
    """Length of the generator's prompt, memory slots included."""
    if path != "text":
        slots = [[len(rows) for rows in memory.gather(found)]]
        return model.processor.encode_prompts([question], slots)["input_ids"].shape[1]
    return len(text_prompt_ids(model.processor.tokenizer, question, _texts(memory, found)))


def part_runs(
    model: Any, memory: CorpusMemory, questions: Sequence[str], count: int
) -> dict[str, Callable[[int], None]]:
    """The parts of the path from memories that come before the generator, each alone."""
    processor = model.processor
    encoded = [processor.encode_questions([question]).to(model.device) for question in questions]
    query = model.question_vectors(questions[:1])
    slots = [[len(rows) for rows in memory.gather(memory.search(query, count)[1][0])]]

    @torch.no_grad()
    def reason(number: int) -> None:
        model.reason(**encoded[number])

    return {
        "part: is the store this compressor's": lambda _: nothing(model.memory_fingerprint()),
        "part: question to ids": lambda number: nothing(processor.encode_questions([questions[number]])),
        "part: query reasoner": reason,
        "part: search": lambda _: nothing(memory.search(query, count)),
        "part: prompt to ids": lambda number: nothing(processor.encode_prompts([questions[number]], slots)),
    }


def _texts(memory: CorpusMemory, found: Sequence[int]) -> list[str]:
    return [memory.texts[index] for index in found]


def _lines(count: int, seconds: Mapping[str, Mapping[str, Sequence[float]]], new_tokens: int) -> list[Line]:
    """First token and whole answer of all paths."""
    lines = []
    for path in PATHS:
        name = f"{count} documents from {path}"
        lines.append(line(f"{name}, first token", seconds[path][FIRST]))
        lines.append(line(f"{name}, {new_tokens} tokens", seconds[path][WALL], {"tokens": new_tokens}))
    return lines


def _ratios(count: int, seconds: Mapping[str, Mapping[str, Sequence[float]]], new_tokens: int) -> list[Ratio]:
    text, ratios = seconds["text"], []
    for path in PATHS[:-1]:
        name, needed = f"{count} documents, {{}}: text against {path}", NEEDED.get(count)
        first = seconds[path][FIRST]
        ratios.append(
            ratio(name.format("first token"), text[FIRST], first, needed if path == FASTEST else None)
        )
        ratios.append(ratio(name.format(f"{new_tokens} tokens"), text[WALL], seconds[path][WALL]))
    return ratios
