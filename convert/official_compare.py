"""Compares a converted checkpoint with recorded outputs of the released implementation.

The outputs lie in a folder: `expected.json` (docs, questions, prompt_ids, mem_token_ids, answers) and
`expected.safetensors` (enc_input_ids, enc_attention_mask, memory, query, scores, topk_idx, mse). What a
recording lacks is left out (an instruction-stage checkpoint has no query, scores or topk_idx).

Letters of the shapes: B questions, N documents of each, M memory tokens, H hidden width, L tokens.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..prompts_clara import SLOT_ID

CLOSE = 1e-5


@dataclass(frozen=True)
class Difference:
    """One comparison: how far it is off, in what, and how far it may be."""

    what: str
    value: float
    limit: float
    unit: str

    @property
    def close(self) -> bool:
        """Whether it is within its limit."""
        return self.value <= self.limit


@dataclass(frozen=True)
class Expected:
    """Recorded outputs of the released implementation."""

    texts: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def slots(self) -> list[int]:
        """How many documents each prompt holds."""
        ids = self.texts["mem_token_ids"]
        return [sum(row.count(token) for token in set(ids)) // len(ids) for row in self.texts["prompt_ids"]]


def read_expected(folder: str) -> Expected:
    """Reads recorded outputs; a FileNotFoundError if one of the two files is missing."""
    files = [Path(folder, "expected.json"), Path(folder, "expected.safetensors")]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing: `--expected` takes a folder with {files[0].name} and {files[1].name}."
            )
    return Expected(json.loads(files[0].read_text(encoding="utf-8")), load_file(files[1]))


@torch.no_grad()
def compare(model: Any, expected: Expected, max_new_tokens: int) -> Iterator[Difference]:
    """Runs a converted model, in the precision of the recording, on the recorded questions and documents.

    The memories are stored and loaded again before they are searched and answered from. The recorded answers
    were cut at `max_new_tokens`.
    """
    documents, tensors = expected.texts["docs"], expected.tensors
    yield from _compare_documents(model, [text for pool in documents for text in pool], tensors)
    if "query" in tensors:
        batch = model.processor.encode_questions(expected.texts["questions"]).to(model.device)
        query = model.reason(**batch).values.flatten(1)
        yield Difference("query", _largest(query, tensors["query"]), CLOSE, "max abs")
    yield _compare_prompts(model, expected)
    with tempfile.TemporaryDirectory() as folder:
        pools = [_stored(model, pool, Path(folder, str(row))) for row, pool in enumerate(documents)]
        if "scores" in tensors:
            yield from _compare_retrieval(model, expected.texts["questions"], pools, tensors)
        if "answers" in expected.texts:
            yield _compare_answers(model, expected, pools, max_new_tokens)


def _compare_documents(model: Any, texts: list[str], tensors: dict[str, Tensor]) -> Iterator[Difference]:
    batch = model.processor.encode_documents(texts).to(model.device)
    if "enc_input_ids" in tensors:
        length = batch["input_ids"].shape[1]
        ids, mask = (tensors[f"enc_{name}"][:, :length] for name in ("input_ids", "attention_mask"))
        same_mask = batch["attention_mask"].cpu() == mask
        same = same_mask & ((batch["input_ids"].cpu() == ids) | (mask == 0))
        yield Difference("encoder ids", float((~same).sum()), 0, f"of {same.numel()} differ")
    memory = model.compress(**batch).values
    yield Difference("memory", _largest(memory, tensors["memory"]), CLOSE, "max abs")
    if "mse" in tensors:
        size = model.config.num_memory_tokens
        prompts = model.processor.encode_prompts(
            ["-"] * len(texts), [[size]] * len(texts), ["-"] * len(texts)
        )
        documents = {f"document_{name}": batch[name] for name in ("input_ids", "attention_mask")}
        loss, recorded = (
            float(model(**prompts.to(model.device), **documents).alignment_loss),
            float(tensors["mse"]),
        )
        yield Difference("alignment loss", abs(loss - recorded) / abs(recorded), CLOSE, "relative")


def _stored(model: Any, documents: list[str], folder: Path) -> Any:
    """The memories of a pool as they come back from the disk."""
    model.build_memory(documents, show_progress=False).save_pretrained(folder)
    return model.load_memory(str(folder))


def _compare_retrieval(
    model: Any, questions: list[str], pools: list[Any], tensors: dict[str, Tensor]
) -> Iterator[Difference]:
    scores, chosen = tensors["scores"], tensors["topk_idx"]
    largest, wrong = 0.0, 0
    for row, (question, pool) in enumerate(zip(questions, pools, strict=True)):
        found = model.retrieve(question, pool, retrieval_top_k=len(pool))
        largest = max(largest, _largest(found.scores, scores[row][found.indices]))
        wrong += found.indices[: chosen.shape[1]] != chosen[row].tolist()
    yield Difference("scores", largest, CLOSE, "max abs")
    yield Difference("top-k", wrong, 0, f"of {len(questions)} questions differ")


def _compare_prompts(model: Any, expected: Expected) -> Difference:
    size = model.config.num_memory_tokens
    batch = model.processor.encode_prompts(expected.texts["questions"], [[size] * k for k in expected.slots])
    slots, differ = set(expected.texts["mem_token_ids"]), 0
    for ids, mask, recorded in zip(
        batch["input_ids"], batch["attention_mask"], expected.texts["prompt_ids"], strict=True
    ):
        differ += not _same_outside(ids[mask.bool()].tolist(), recorded, slots)
    return Difference("prompt ids", differ, 0, f"of {len(batch['input_ids'])} prompts differ")


def _same_outside(ids: list[int], recorded: list[int], slots: set[int]) -> bool:
    """Whether a prompt has as many slots as the recorded one and the same ids outside them."""
    counts = ids.count(SLOT_ID) == sum(token in slots for token in recorded)
    pairs = zip(ids, recorded, strict=False)
    same = all(own in (SLOT_ID, other) or other in slots for own, other in pairs)
    return counts and len(ids) == len(recorded) and same


def _compare_answers(model: Any, expected: Expected, pools: list[Any], max_new_tokens: int) -> Difference:
    rows = zip(expected.texts["questions"], pools, expected.slots, strict=True)
    answers = [
        model.generate(question, pool, retrieval_top_k=k, max_new_tokens=max_new_tokens)
        for question, pool, k in rows
    ]
    recorded = expected.texts["answers"]
    differ = sum(answer != other for answer, other in zip(answers, recorded, strict=True))
    return Difference("answers", differ, 0, f"of {len(recorded)} differ")


def _largest(tensor: Tensor, recorded: Tensor) -> float:
    """The largest absolute difference; infinite if the shapes differ."""
    if tensor.shape != recorded.shape:
        return float("inf")
    return float((tensor.float().cpu() - recorded.float()).abs().max())
