"""What answers owe to the memories they are read from: loss of the gold answer and scores of the greedy one.

Letters of the shapes: B questions, K chosen, m vectors of a memory, H hidden width.
"""

from collections.abc import Sequence

import torch
from clara.memory_clara import CorpusMemory
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.processing_clara import IGNORE_INDEX
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from .language_models import ClaraModel, TextModel
from .metrics import score_answers
from .readers import TextReader
from .reports import Scores

LOSS = "loss"


def score_readings(
    model: ClaraForRetrievalGeneration,
    memory: CorpusMemory,
    questions: Sequence[str],
    answers: Sequence[Sequence[str]],
    chosen: Sequence[Sequence[int]],
    max_new_tokens: int = 32,
    batch_size: int = 16,
    name: str = "answering",
) -> Scores:
    """Reads memories and scores what was answered: one value for each question.

    Questions with similarly many passages are answered together, so that little is padded.

    Args:
        model: In eval mode, with its processor.
        memory: Of all passages.
        questions: B questions.
        answers: B lists of gold answers; the loss is that of the first.
        chosen: For each question the passages in reading order; none: it is answered without memories.
        max_new_tokens: Longest answer; 0: nothing is generated, only the loss is measured.
        batch_size: Questions at once.
        name: What the progress bar says.

    Returns:
        `loss` (nats per token of the first gold answer), and the answer metrics if answers were generated.
    """
    order = sorted(range(len(questions)), key=lambda row: len(chosen[row]))
    losses, texts = [0.0] * len(questions), [""] * len(questions)
    reader = ClaraModel(model)
    with tqdm(total=len(questions), desc=name, unit="question") as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            asked = [questions[row] for row in rows]
            memories = [memory.gather(chosen[row]) for row in rows]
            found = answer_losses(model, asked, [answers[row][0] for row in rows], memories)
            said = reader.answer(asked, memories, max_new_tokens) if max_new_tokens else [("", 0)] * len(rows)
            for row, loss, (text, _) in zip(rows, found, said, strict=True):
                losses[row], texts[row] = loss, text
            bar.update(len(rows))
    return {LOSS: losses, **(score_answers(texts, answers) if max_new_tokens else {})}


def score_text_readings(
    text_model: TextModel,
    texts: Sequence[str],
    questions: Sequence[str],
    answers: Sequence[Sequence[str]],
    chosen: Sequence[Sequence[int]],
    max_new_tokens: int = 32,
    batch_size: int = 16,
    name: str = "answering from text",
) -> Scores:
    """The answer metrics of a causal LM that reads texts; arguments as in `score_readings`, no loss.

    Args:
        text_model: Reads the texts.
        texts: All texts.
        questions: B questions.
        answers: B lists of gold answers.
        chosen: For each question its texts in reading order.
        max_new_tokens: Longest answer.
        batch_size: Questions at once.
        name: What the progress bar says.
    """
    reader = TextReader(text_model, texts)
    lengths = [sum(len(texts[place]) for place in row) for row in chosen]
    order = sorted(range(len(questions)), key=lambda row: lengths[row])
    said = [""] * len(questions)
    with tqdm(total=len(questions), desc=name, unit="question") as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            asked, shown = [questions[row] for row in rows], [chosen[row] for row in rows]
            for row, (answer, _) in zip(rows, reader.answer(asked, shown, max_new_tokens), strict=True):
                said[row] = answer
            bar.update(len(rows))
    return score_answers(said, answers)


def base_of(model: ClaraForRetrievalGeneration) -> TextModel:
    """The plain base of a CLaRa model, to read text."""
    return TextModel(model.decoder, model.processor.tokenizer, model.config.prompt_limit)


@torch.no_grad()
def answer_losses(
    model: ClaraForRetrievalGeneration,
    questions: Sequence[str],
    answers: Sequence[str],
    memories: Sequence[Sequence[Tensor]],
) -> list[float]:
    """Mean loss per answer token in nats, of each question, given its memories.

    Args:
        model: With its processor.
        questions: B questions.
        answers: B answers.
        memories: For each question its memories (m, H), none or several.
    """
    slots = [[len(memory) for memory in row] for row in memories]
    batch = model.processor.encode_prompts(questions, slots, answers).to(model.device)
    counts = pad_sequence([torch.tensor(row, dtype=torch.long) for row in slots], batch_first=True)
    width = model.config.get_text_config().hidden_size
    given = torch.zeros(*counts.shape, max((count for row in slots for count in row), default=1), width)
    for place, row in enumerate(memories):
        for rank, memory in enumerate(row):
            given[place, rank, : len(memory)] = memory
    device = model.device
    logits = model(**batch, memory=given.to(device), memory_counts=counts.to(device)).logits
    labels = batch["labels"][:, 1:]
    losses = functional.cross_entropy(logits.float(), labels[labels != IGNORE_INDEX], reduction="none")
    lengths = (labels != IGNORE_INDEX).sum(dim=-1).tolist()
    return [float(part.mean()) for part in losses.split(lengths)]
