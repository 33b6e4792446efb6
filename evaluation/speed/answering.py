"""From question to answer: latency from memories against text, batches against single questions, search.

Every benchmark takes a CLaRa model with its processor, how much is measured, and the number of rounds.
"""

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from clara.data.sample_corpus import sample_questions
from clara.data.text_prompts import text_prompt_ids
from clara.memory_clara import CorpusMemory
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from ..language_models import base_of
from .report import Section, ratio, section, variant
from .timing import Runs, measure
from .workload import Sizes, sample_memory

PATHS = ("memories", "memories, merged", "text")
FIRST = "first token"
NEEDED_FIRST = {(5, "memories, merged"): 5.0}
NEEDED_BATCH = 3.0
BATCH = 16


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
    With more documents than the paper's five there are half as many rounds.
    """
    memory = sample_memory(model, sizes.store, sizes)
    questions = [row["question"] for row in sample_questions()]
    merged = copy.deepcopy(model)
    merged.merge_adapters()
    whole, variants, ratios, facts = f"{sizes.new_tokens} tokens", [], [], {}
    for count in sizes.documents:
        rounds = repeats if count <= 5 else max(1, repeats // 2)
        found = [model.retrieve(question, memory, count).indices for question in questions[:rounds]]
        runs = latency_runs(model, merged, memory, questions, found, sizes.new_tokens)
        seconds = measure(runs, rounds, model.device)
        for path in PATHS:
            first, last = named(count, path, FIRST), named(count, path, whole)
            variants.append(variant(first, seconds[first]))
            variants.append(variant(last, seconds[last], tokens=sizes.new_tokens))
            for what in (FIRST, whole) if path != "text" else ():
                slow, fast = seconds[named(count, "text", what)], seconds[named(count, path, what)]
                needed = NEEDED_FIRST.get((count, path)) if what == FIRST else None
                ratios.append(ratio(f"{count} documents, {what}: text against {path}", slow, fast, needed))
        key = f"tokens read by the generator, {count} documents"
        facts[key] = tokens_read(model, questions[0], memory, found[0])
    parts = measure(part_runs(model, memory, questions[:1], 5), repeats, model.device)
    variants += [variant(name, values) for name, values in parts.items()]
    title = (
        f"One question over {len(memory)} stored documents of about {sizes.document_tokens} tokens, batch 1"
    )
    return section("latency", title, variants, ratios, facts)


def named(count: int, path: str, what: str) -> str:
    """The name of a line: number of documents, path, and up to where was timed."""
    return f"{count} documents from {path}, {what}"


def latency_runs(
    model: Any,
    merged: Any,
    memory: CorpusMemory,
    questions: Sequence[str],
    found: Sequence[list[int]],
    new_tokens: int,
) -> Runs:
    """All paths; each round asks the next question of those whose documents are in `found`."""
    base, count = base_of(model), len(found[0])

    def from_memories(answering: Any, number: int, clock: FirstToken) -> str:
        length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
        return answering.generate(
            questions[number], memory, count, reading="together", streamer=clock, **length
        )

    def from_text(_: Any, number: int, clock: FirstToken) -> str:
        ids = text_ids(model, questions[number], memory, found[number])
        return base.answer([ids], new_tokens, streamer=clock, min_new_tokens=new_tokens)[0][0]

    def run(path: str, number: int) -> dict[str, float]:
        clock = FirstToken()
        way = from_text if path == "text" else from_memories
        way(merged if path == "memories, merged" else model, number, clock)
        return {named(count, path, FIRST): clock.seconds}

    return {
        named(count, path, f"{new_tokens} tokens"): lambda number, path=path: run(path, number)
        for path in PATHS
    }


def text_ids(model: Any, question: str, memory: CorpusMemory, found: Sequence[int]) -> list[int]:
    """The prompt with the documents' text, in the template that holds the memories."""
    return text_prompt_ids(model.processor.tokenizer, question, [memory.texts[index] for index in found])


def tokens_read(model: Any, question: str, memory: CorpusMemory, found: Sequence[int]) -> dict[str, int]:
    """Length of the generator's prompt from memories, slots included, and from text."""
    slots = [[len(rows) for rows in memory.gather(found)]]
    prompt = model.processor.encode_prompts([question], slots)["input_ids"]
    return {"memories": prompt.shape[1], "text": len(text_ids(model, question, memory, found))}


def part_runs(model: Any, memory: CorpusMemory, questions: list[str], count: int) -> Runs:
    """The parts of the path from memories that come before the generator, each alone, for one question."""
    processor = model.processor
    encoded = processor.encode_questions(questions).to(model.device)
    query = model.question_vectors(questions)
    slots = [[len(rows) for rows in memory.gather(memory.search(query, count)[1][0])]]
    return {
        "part: is the store this compressor's": lambda _: model.memory_fingerprint(),
        "part: question to ids": lambda _: processor.encode_questions(questions),
        "part: query reasoner": torch.no_grad()(lambda _: model.reason(**encoded)),
        "part: search": lambda _: memory.search(query, count),
        "part: prompt to ids": lambda _: processor.encode_prompts(questions, slots),
    }


def bench_generation(model: Any, sizes: Sizes, repeats: int) -> Section:
    """Times a batch of questions against single ones; every answer has the same number of new tokens."""
    memory = sample_memory(model, sizes.answers, sizes)
    questions = [row["question"] for row in sample_questions()][: sizes.answers]
    seconds = measure(generation_runs(model, memory, questions, sizes), repeats, model.device)
    counts = {f"{len(questions)} at once": len(questions), "one at a time": sizes.alone}
    batch, single = counts
    return section(
        "generation",
        f"Answering from 5 memories, {sizes.answer_tokens} new tokens a question",
        [variant(name, seconds[name], tokens=count * sizes.answer_tokens) for name, count in counts.items()],
        [
            ratio(
                "tokens a second: one batch against one at a time",
                seconds[single],
                seconds[batch],
                NEEDED_BATCH,
                counts[single] / counts[batch],
            )
        ],
    )


def generation_runs(model: Any, memory: CorpusMemory, questions: list[str], sizes: Sizes) -> Runs:
    """All questions in one batch, and some of them one at a time (other ones in every round)."""

    def answer(asked: list[str]) -> list[str]:
        count = sizes.answer_tokens
        return model.generate(
            asked, memory, 5, reading="together", max_new_tokens=count, min_new_tokens=count
        )

    def alone(number: int) -> None:
        for step in range(sizes.alone):
            answer([questions[(number * sizes.alone + step) % len(questions)]])

    return {f"{len(questions)} at once": lambda _: answer(questions), "one at a time": alone}


def bench_search(model: Any, sizes: Sizes, repeats: int) -> Section:
    """Times the exact search for five of N passages, one question and a batch.

    The vectors are random ones in RAM, as wide as the model's search vectors.
    """
    width = model.question_vectors(["?"]).shape[1]
    variants, facts = [], {}
    for count in sizes.searched:
        memory = random_memory(count, width)
        many = memory.vectors[:BATCH]
        asked = {"one question": memory.vectors[:1], f"{len(many)} questions": many}
        runs = {
            f"{count:,} passages, {name}": lambda _, memory=memory, query=query: memory.search(query, 5)
            for name, query in asked.items()
        }
        seconds = measure(runs, repeats, model.device)
        numbers = zip(runs, map(len, asked.values()), strict=True)
        variants += [variant(name, seconds[name], questions=number) for name, number in numbers]
        facts[f"bytes of {count:,} search vectors"] = memory.vectors.nbytes
    return section("search", "Exact search for the five nearest passages", variants, facts=facts)


def random_memory(count: int, width: int) -> CorpusMemory:
    """N passages with random search vectors (N, width), each the one vector of its memory too."""
    values = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    texts = [str(index) for index in range(count)]
    return CorpusMemory(values, texts, vectors=values, offsets=torch.arange(count + 1))
