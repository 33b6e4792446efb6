"""The loss of gold answers, given memories.

Letters of the shapes: B questions, K chosen, m vectors of a memory, H hidden width.
"""

from collections.abc import Sequence

import torch
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.processing_clara import IGNORE_INDEX
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence


@torch.no_grad()
def answer_losses(
    model: ClaraForRetrievalGeneration,
    questions: Sequence[str],
    answers: Sequence[str],
    memories: Sequence[Sequence[Tensor]],
) -> list[float]:
    """Mean loss per answer token in nats, of each question, given its memories.

    Args:
        model: In eval mode, with its processor.
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
