"""Readers: how chosen passages reach the generator, as memories, as text, cut short, or not at all."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from clara.data.text_prompts import closed_book_ids, first_tokens, text_prompt_ids
from clara.memory_clara import CorpusMemory
from clara.retrieval_clara import pack
from tqdm.auto import tqdm

from .language_models import ClaraModel, TextModel

Chosen = Sequence[Sequence[int]]
Scores = Sequence[Sequence[float]]


class Reader(Protocol):
    """Answers questions from chosen passages.

    Attributes:
        bytes_per_passage: what has to be stored of a passage so that it can be read, on average.
    """

    bytes_per_passage: float

    def size(self, question: str, chosen: Sequence[int]) -> int:
        """How much is read for a question: questions of similar size are answered together."""

    def answer(
        self, questions: Sequence[str], chosen: Chosen, max_new_tokens: int, scores: Scores = ()
    ) -> list[tuple[str, int]]:
        """B questions and for each its passages in reading order, with scores -> answer and tokens read."""


class NoReader:
    """Reads nothing and answers nothing, where only the search is measured."""

    bytes_per_passage = 0.0

    def size(self, question: str, chosen: Sequence[int]) -> int:
        """See `Reader.size`."""
        return 0

    def answer(
        self, questions: Sequence[str], chosen: Chosen, max_new_tokens: int, scores: Scores = ()
    ) -> list[tuple[str, int]]:
        """See `Reader.answer`."""
        return [("", 0)] * len(questions)


class MemoryReader:
    """Reads the memories of the chosen passages; with `each`, every one alone for the likeliest answer."""

    def __init__(self, model: ClaraModel, memory: CorpusMemory, each: bool = False) -> None:
        self._model, self._memory, self._each = model, memory, each
        parts = pack(memory.gather([0])[0], memory.dtype).values()
        vector = sum(part[0].numel() * part.element_size() for part in parts)
        self.bytes_per_passage = vector * int(memory.offsets[-1]) / len(memory)

    def size(self, question: str, chosen: Sequence[int]) -> int:
        """See `Reader.size`; in tokens, about four characters of the question for one."""
        offsets = self._memory.offsets
        return sum(int(offsets[row + 1] - offsets[row]) for row in chosen) + len(question) // 4

    def answer(
        self, questions: Sequence[str], chosen: Chosen, max_new_tokens: int, scores: Scores = ()
    ) -> list[tuple[str, int]]:
        """See `Reader.answer`."""
        memories = [self._memory.gather(row) for row in chosen]
        if self._each:
            return self._model.answer_each(questions, memories, scores, max_new_tokens)
        return self._model.answer(questions, memories, max_new_tokens)


class TextReader:
    """Reads the text of the chosen passages in CLaRa's own answering prompt.

    Without texts it answers from what it knows, in a prompt without documents. At a `rate` it reads the first
    1 / rate of the tokens of each passage only (hard compression).
    """

    def __init__(self, model: TextModel, texts: Sequence[str] = (), rate: int = 1) -> None:
        self._model = model
        self._texts = (
            list(texts) if rate == 1 else [first_tokens(model.tokenizer, text, rate) for text in texts]
        )
        self.bytes_per_passage = sum(len(text.encode()) for text in self._texts) / max(len(texts), 1)

    def size(self, question: str, chosen: Sequence[int]) -> int:
        """See `Reader.size`; in characters."""
        return len(question) + sum(len(self._texts[passage]) for passage in chosen)

    def answer(
        self, questions: Sequence[str], chosen: Chosen, max_new_tokens: int, scores: Scores = ()
    ) -> list[tuple[str, int]]:
        """See `Reader.answer`; `scores` change nothing."""
        return self._model.answer(list(map(self._prompt, questions, chosen)), max_new_tokens)

    def _prompt(self, question: str, chosen: Sequence[int]) -> list[int]:
        tokenizer = self._model.tokenizer
        if not self._texts:
            return closed_book_ids(tokenizer, question)
        return text_prompt_ids(tokenizer, question, [self._texts[passage] for passage in chosen])


def by_size(sizes: Sequence[int], batch_size: int, name: str) -> Iterator[list[int]]:
    """Rows in batches of similar size, the largest first, so that little is padded; with a progress bar."""
    order = sorted(range(len(sizes)), key=lambda row: -sizes[row])
    with tqdm(total=len(order), desc=name, unit="question") as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            yield rows
            bar.update(len(rows))


def read_all(
    reader: Reader,
    questions: Sequence[str],
    chosen: Chosen,
    max_new_tokens: int = 32,
    batch_size: int = 16,
    name: str = "answering",
) -> list[str]:
    """Answers B questions in batches of similar size, each from its passages in reading order.

    `name` is what the progress bar says.
    """
    said = [""] * len(questions)
    sizes = list(map(reader.size, questions, chosen))
    for rows in by_size(sizes, batch_size, name):
        asked, shown = [questions[row] for row in rows], [chosen[row] for row in rows]
        for row, (answer, _) in zip(rows, reader.answer(asked, shown, max_new_tokens), strict=True):
            said[row] = answer
    return said
