"""What a question's memory says to the base's own head."""

from typing import Any

import torch
from clara.adapters_clara import evaluating


@torch.no_grad()
def logit_lens(model: Any, question: str, top: int = 8) -> list[list[tuple[str, float]]]:
    """The likeliest tokens at each memory vector of a question by the base's own head (paper figure 4).

    Args:
        model: The model.
        question: The question.
        top: Tokens of each memory vector.

    Returns:
        For each of the M memory vectors its likeliest tokens as texts, with their probabilities.

    Raises:
        ValueError: If the question is empty or too long.
    """
    batch = model.processor.encode_questions([question]).to(model.device)
    head = model.decoder.get_output_embeddings()
    with model.lock, evaluating(model):
        rows = model.reason(**batch).rows()
        found = head(rows.to(head.weight)).float().softmax(dim=-1).topk(top, dim=-1)
    tokenizer = model.processor.tokenizer
    return [
        [(tokenizer.decode([token]), share) for token, share in zip(ids, row, strict=True)]
        for ids, row in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]
