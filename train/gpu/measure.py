"""Rankings and answers of a trained model and its alternatives on the dev sets, on the machine at hand.

One line of JSON a system and set: the places found among the question's own candidates and among the
passages of all sets, or the answers. Metrics and intervals are computed from them elsewhere.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...adapters_clara import copy_adapter, evaluating, wearing
from ...data.readers import read_questions
from ...data.records import QuestionRecord
from ...data.text_prompts import closed_book_ids, text_prompt_ids
from ...modeling_clara import ClaraForRetrievalGeneration
from ...retrieval_clara import Memories, average_neighbours, cosine_scores, ragged
from ..memories import compressed, first_passages
from ..teachers import RetrievalTeacher

SETS = ("nq", "hotpotqa", "2wiki", "musique")
DEPTH = 20
ANSWER_TOKENS = 20


class Corpus(NamedTuple):
    """The passages of all sets: texts, memories, search vectors of the model and of the teacher."""

    texts: list[str]
    places: dict[str, int]
    values: Tensor
    offsets: Tensor
    vectors: Tensor
    teacher: Tensor


def read_sets(folder: Path, limit: int | None) -> dict[str, list[QuestionRecord]]:
    """The first questions of each set that is there."""
    files = {name: folder / f"{name}.jsonl" for name in SETS}
    return {name: list(read_questions(file))[:limit] for name, file in files.items() if file.exists()}


def make_corpus(
    model: Any, teacher: RetrievalTeacher, sets: dict[str, list[QuestionRecord]], size: int
) -> Corpus:
    """Compresses and embeds every candidate of the sets once."""
    first = first_passages(
        model.processor, [d for records in sets.values() for r in records for d in r.documents]
    )
    texts = list(dict.fromkeys(first.values()))
    known = {text: place for place, text in enumerate(texts)}
    stored = {name: tensor.to(model.device) for name, tensor in compressed(model, texts, size).items()}
    places = {text: known[part] for text, part in first.items()}
    return Corpus(texts, places, **stored, teacher=teacher.embed(texts))


class Measurement:
    """All systems on one set.

    Args:
        model: In eval mode, on its device.
        corpus: The passages.
        records: The questions.
        queries: Their search vectors by the model and by the teacher, {"memory": (B, D), "minilm": (B, E)}.
        batch_size: Questions answered at once.
    """

    def __init__(
        self,
        model: Any,
        corpus: Corpus,
        records: list[QuestionRecord],
        queries: dict[str, Tensor],
        batch_size: int,
    ) -> None:
        self.model, self.corpus, self.records, self.batch_size = model, corpus, records, batch_size
        self.scores = {
            "memory": cosine_scores(queries["memory"], corpus.vectors),
            "minilm": cosine_scores(queries["minilm"], corpus.teacher),
        }
        self.pools = [[corpus.places[text] for text in record.documents] for record in records]
        self.gold = [
            [pool[place] for place in r.positives] for r, pool in zip(records, self.pools, strict=True)
        ]

    def rankings(self) -> Iterator[dict]:
        """The best of each question's pool and of the corpus, by memories and by the teacher."""
        for name, scores in self.scores.items():
            best = scores.topk(DEPTH, dim=-1)
            yield {"system": f"{name} corpus", "found": best.indices.tolist(), "scores": _short(best.values)}
            ranked = [self._pool_order(name, row) for row in range(len(self.records))]
            yield {"system": f"{name} pool", "found": ranked}
        yield {"system": "gold", "found": self.gold, "pools": self.pools}

    def _pool_order(self, name: str, row: int) -> list[int]:
        pool = list(dict.fromkeys(self.pools[row]))
        order = self.scores[name][row, pool].argsort(descending=True, stable=True)
        return [pool[place] for place in order.tolist()]

    def answers(self) -> Iterator[dict]:
        """Answers from memories at several rates and numbers of passages, and from text."""
        own = [self._pool_order("memory", row) for row in range(len(self.records))]
        dense = [self._pool_order("minilm", row) for row in range(len(self.records))]
        wide = self.scores["memory"].topk(5, dim=-1).indices.tolist()
        strangers = self.gold[1:] + self.gold[:1]
        for factor in (1, 2, 4):
            yield self._from_memories(f"gold {4 * factor}x", self.gold, factor)
        yield self._each("each of five of pool 4x", [row[:5] for row in own])
        yield self._each("each of five of corpus 4x", wide)
        yield self._from_text("text five of minilm pool", [row[:5] for row in dense])
        yield self._from_memories("five of pool 4x", [row[:5] for row in own], 1)
        yield self._from_memories("one of pool 4x", [row[:1] for row in own], 1)
        yield self._from_text("text gold", self.gold)
        yield self._from_memories("strangers 4x", strangers, 1)
        yield self._from_text("text one of minilm pool", [row[:1] for row in dense])

    def _each(self, system: str, chosen: Sequence[Sequence[int]]) -> dict:
        """Each memory read alone, the likeliest answer taken."""
        model, texts, start = self.model, [], time.perf_counter()
        for rows, part in _batches(chosen, self.batch_size // 2):
            scores = torch.stack(
                [
                    self.scores["memory"][row, places]
                    for row, places in zip(_range(rows, part), part, strict=True)
                ]
            )
            flat = [[self._memory(place) for place in places] for places in part]
            questions = [record.question for record in self.records[rows]]
            found = model.read_memories(questions, flat, scores, "each", max_new_tokens=ANSWER_TOKENS)
            texts += model._decode(found.sequences, len(questions))
        return {"system": system, "answers": texts, "seconds": time.perf_counter() - start}

    def _memory(self, place: int) -> Tensor:
        begin, end = self.corpus.offsets[place : place + 2].tolist()
        return self.corpus.values[begin:end]

    def _from_memories(self, system: str, chosen: Sequence[Sequence[int]], factor: int) -> dict:
        model, texts = self.model, []
        start = time.perf_counter()
        for rows, part in _batches(chosen, self.batch_size):
            flat = torch.tensor([place for places in part for place in places], device=model.device)
            found = average_neighbours(ragged(self.corpus.values, self.corpus.offsets, flat), factor)
            sizes = iter(found.counts.tolist())
            slots = [[next(sizes) for _ in places] for places in part]
            texts += self._generate(rows, slots, found)
        return {"system": system, "answers": texts, "seconds": time.perf_counter() - start}

    def _generate(self, rows: slice, slots: list[list[int]], found: Memories) -> list[str]:
        model, questions = self.model, [record.question for record in self.records[rows]]
        prompts = model.processor.encode_prompts(questions, slots).to(model.device)
        embeds = model.fill_slots(prompts["input_ids"], found.rows())
        generation = model._generate_from(embeds, prompts["attention_mask"], max_new_tokens=ANSWER_TOKENS)
        return model._decode(generation.sequences, len(questions))

    def _from_text(self, system: str, chosen: Sequence[Sequence[int]]) -> dict:
        model, tokenizer, texts = self.model, self.model.processor.tokenizer, []
        start = time.perf_counter()
        for rows, part in _batches(chosen, self.batch_size // 2):
            ids = [self._text_ids(*pair) for pair in zip(self.records[rows], part, strict=True)]
            batch = model.processor.pad(ids).to(model.device)
            with wearing(model.decoder):
                out = model.decoder.generate(
                    **batch,
                    max_new_tokens=ANSWER_TOKENS,
                    do_sample=False,
                    pad_token_id=tokenizer.eos_token_id,
                )
            found = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            texts += [text.strip() for text in found]
        return {"system": system, "answers": texts, "seconds": time.perf_counter() - start}

    def _text_ids(self, record: QuestionRecord, places: Sequence[int]) -> list[int]:
        tokenizer = self.model.processor.tokenizer
        if not places:
            return closed_book_ids(tokenizer, record.question)
        return text_prompt_ids(tokenizer, record.question, [self.corpus.texts[place] for place in places])


def _batches(rows: Sequence[Any], size: int) -> Iterator[tuple[slice, Sequence[Any]]]:
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        yield part, rows[part]


def _range(rows: slice, part: Sequence[Any]) -> range:
    return range(rows.start, rows.start + len(part))


def _short(values: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in values.tolist()]


@torch.no_grad()
def measure(model: Any, teacher: RetrievalTeacher, given: argparse.Namespace) -> Iterator[dict]:
    """Every line of the output."""
    sets = read_sets(given.data / given.split, given.limit)
    corpus = make_corpus(model, teacher, sets, 2 * given.batch_size)
    with evaluating(model):
        for name, records in sets.items():
            questions = [record.question for record in records]
            vectors = model.question_vectors(questions, given.batch_size).to(model.device)
            queries = {"memory": vectors, "minilm": teacher.embed(questions)}
            found = Measurement(model, corpus, records, queries, given.batch_size)
            for line in found.rankings():
                yield {"set": name, "passages": len(corpus.texts), **line}
            for line in found.answers() if given.answers else ():
                yield {"set": name, "passages": len(corpus.texts), **line}


def main() -> None:
    """Parses, measures, writes line by line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="checkpoint")
    parser.add_argument("--teacher", required=True, help="sentence-transformers model")
    parser.add_argument("--data", type=Path, required=True, help="folder with dev/")
    parser.add_argument("--split", default="dev", help="folder of the sets (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="JSONL file")
    parser.add_argument("--limit", type=int, help="first questions of each set")
    parser.add_argument(
        "--batch-size", type=int, default=256, help="questions at once (default: %(default)s)"
    )
    parser.add_argument("--no-answers", dest="answers", action="store_false", help="rankings alone")
    parser.add_argument("--before-end-to-end", action="store_true", help="the compressor reads questions too")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = ClaraForRetrievalGeneration.from_pretrained(given.model, dtype=torch.bfloat16).to(device).eval()
    if given.before_end_to_end:
        copy_adapter(model.decoder, "compressor", "query_reasoner")
    model.merge_adapters()
    with given.output.open("w", encoding="utf-8") as file:
        for line in measure(model, RetrievalTeacher(given.teacher, device), given):
            file.write(json.dumps(line) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
