"""Readers: how chosen passages reach the generator, as memories, as text, cut short, or not at all."""

from collections.abc import Sequence
from typing import Protocol

from clara.data.text_prompts import closed_book_ids, first_tokens, text_prompt_ids
from clara.memory_clara import CorpusMemory
from clara.retrieval_clara import pack

from .language_models import ClaraModel, TextModel

Chosen = Sequence[Sequence[int]]


class Reader(Protocol):
    """Answers questions from chosen passages.

    Attributes:
        bytes_per_passage: what has to be stored of a passage so that it can be read, on average.
    """

    bytes_per_passage: float

    def size(self, question: str, chosen: Sequence[int]) -> int:
        """How much is read for a question: questions of similar size are answered together."""

    def answer(self, questions: Sequence[str], chosen: Chosen, max_new_tokens: int) -> list[tuple[str, int]]:
        """B questions and for each its passages in reading order -> answer and tokens read."""


class MemoryReader:
    """Reads the memories of the chosen passages.

    Args:
        model: the model that made them.
        memory: of all N passages.
    """

    def __init__(self, model: ClaraModel, memory: CorpusMemory) -> None:
        self._model, self._memory = model, memory
        self.bytes_per_passage = memory_bytes(memory)

    def size(self, question: str, chosen: Sequence[int]) -> int:
        """See `Reader.size`; in tokens, about four characters of the question for one."""
        offsets = self._memory.offsets
        return sum(int(offsets[row + 1] - offsets[row]) for row in chosen) + len(question) // 4

    def answer(self, questions: Sequence[str], chosen: Chosen, max_new_tokens: int) -> list[tuple[str, int]]:
        """See `Reader.answer`."""
        memories = [self._memory.gather(row) for row in chosen]
        return self._model.answer(questions, memories, max_new_tokens)


class TextReader:
    """Reads the text of the chosen passages in CLaRa's own answering prompt.

    Args:
        model: any causal LM.
        texts: of all N passages.
        rate: keep the first 1 / rate of the tokens of each passage only (hard compression); 1: all.
    """

    def __init__(self, model: TextModel, texts: Sequence[str], rate: int = 1) -> None:
        self._model = model
        self._texts = (
            list(texts) if rate == 1 else [first_tokens(model.tokenizer, text, rate) for text in texts]
        )
        self.bytes_per_passage = sum(len(text.encode()) for text in self._texts) / len(self._texts)

    def size(self, question: str, chosen: Sequence[int]) -> int:
        """See `Reader.size`; in characters."""
        return len(question) + sum(len(self._texts[passage]) for passage in chosen)

    def answer(self, questions: Sequence[str], chosen: Chosen, max_new_tokens: int) -> list[tuple[str, int]]:
        """See `Reader.answer`."""
        prompts = [
            text_prompt_ids(self._model.tokenizer, question, [self._texts[passage] for passage in row])
            for question, row in zip(questions, chosen, strict=True)
        ]
        return self._model.answer(prompts, max_new_tokens)


class ClosedBookReader:
    """Reads nothing: what the base answers from its weights.

    Args:
        model: any causal LM.
    """

    bytes_per_passage = 0.0

    def __init__(self, model: TextModel) -> None:
        self._model = model

    def size(self, question: str, chosen: Sequence[int]) -> int:
        """See `Reader.size`; in characters."""
        return len(question)

    def answer(self, questions: Sequence[str], chosen: Chosen, max_new_tokens: int) -> list[tuple[str, int]]:
        """See `Reader.answer`; `chosen` is not looked at."""
        prompts = [closed_book_ids(self._model.tokenizer, question) for question in questions]
        return self._model.answer(prompts, max_new_tokens)


def memory_bytes(memory: CorpusMemory) -> float:
    """Bytes of one passage's memory in the format in which it is kept, on average."""
    parts = pack(memory.gather([0])[0], memory.dtype).values()
    each = sum(part[0].numel() * part.element_size() for part in parts)
    return each * int(memory.offsets[-1]) / len(memory)


def vector_bytes(memory: CorpusMemory) -> float:
    """Bytes of one passage's search vector."""
    return float(memory.vectors.shape[1] * memory.vectors.element_size())
