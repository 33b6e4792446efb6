"""A synthetic oracle: memories carry key and answer of their document, so every metric is known."""

import re

import torch
from clara.data.records import QuestionRecord
from clara.memory_clara import CorpusMemory
from clara.processing_clara import to_passages

WIDTH = 64
ANSWER_WEIGHT = 0.01
FACT = re.compile(r"key (\d+) answer city(\d+)")


def document(key, answer, note=""):
    """A text that answers the question about `key`; keys and answers are numbers below WIDTH."""
    filler = " ".join(["nothing to see"] * 12)
    return f"{filler} {note} key {key} answer city{answer}"


def question(key):
    return f"which city belongs to key {key}"


def record(key, documents, positives, answer=None):
    gold = (f"city{key if answer is None else answer}",)
    return QuestionRecord(question(key), gold, tuple(documents), tuple(positives))


class OracleModel:
    """Row 0 of a memory is the key and its search vector, row 1 the answer: (2, WIDTH)."""

    def __init__(self):
        self.compressed = 0

    def fingerprint(self):
        return "oracle"

    def split(self, documents):
        return to_passages(documents, lambda texts, headers: [text.split("||") for text in texts])

    def compress(self, passages, folder=None, batch_size=32):
        memory = torch.zeros(len(passages.texts), 2, WIDTH)
        for row, text in enumerate(passages.texts):
            if fact := FACT.search(text):
                memory[row, 0, int(fact[1])] = 1
                memory[row, 1, int(fact[2])] = ANSWER_WEIGHT
        self.compressed += len(passages.texts)
        offsets = 2 * torch.arange(len(memory) + 1)
        columns = {"parents": passages.parents, "orders": passages.orders}
        return CorpusMemory(
            memory.flatten(0, 1), passages.texts, vectors=memory[:, 0], **columns, offsets=offsets
        )

    def question_vectors(self, questions):
        keys = torch.tensor([int(text.split()[-1]) for text in questions])
        return torch.nn.functional.one_hot(keys, WIDTH).float()

    def answer(self, questions, memories, max_new_tokens):
        """The answer of the memory that carries the question's key, read from the memories alone."""
        keys = self.question_vectors(questions)
        answers = []
        for key, memory in zip(keys, memories, strict=True):
            found = [row[1].argmax().item() for row in memory if row[0] @ key > 0]
            answers.append((f"city{found[0]}" if found else "unknown", 2 * len(memory)))
        return answers

    def answer_each(self, questions, memories, scores, max_new_tokens):
        """As `answer`: the memory that carries the key has the highest score."""
        best = [row[int(torch.tensor(own).argmax())] for row, own in zip(memories, scores, strict=True)]
        return self.answer(questions, [[memory] for memory in best], max_new_tokens)


class OracleTextModel:
    """Answers from the text of the prompt: the fact whose key is the question's."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def fingerprint(self):
        return "oracle text"

    def answer(self, prompts, max_new_tokens):
        answers = []
        for ids in prompts:
            text = self.tokenizer.decode(ids)
            key = re.search(r"belongs to key (\d+)", text)[1]
            facts = dict(FACT.findall(text))
            answers.append((f"city{facts[key]}" if key in facts else "unknown", len(ids)))
        return answers
