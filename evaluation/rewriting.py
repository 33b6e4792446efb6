"""What of documents survives when they are written out again from their memories."""

from collections.abc import Sequence
from typing import Any

import torch
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.prompts_clara import plain_ids, reconstruction_prompt
from tqdm.auto import tqdm

from .language_models import ClaraModel
from .preservation import kept_shares, rouge_l
from .rates import coarser
from .statistics import bootstrap_interval

KEPT = ("rouge_l", "dates", "numbers", "names")
BATCH = 8
MAX_NEW_TOKENS = 256


def kept_in_rewriting(
    model: ClaraForRetrievalGeneration, documents: Sequence[str], seed: int = 0, factor: int = 1
) -> dict[str, dict[str, Any]]:
    """Shares of dates, numbers and names, and ROUGE-L, between first passages and what their memories say.

    Args:
        model: With its processor; it is asked to repeat each document.
        documents: Texts; what lies beyond the first passage is left out.
        seed: Of the intervals.
        factor: Read so many neighbouring vectors as one.

    Returns:
        For each of `KEPT` that some document has: mean, interval, and the number of documents that count.
    """
    if not documents:
        return {}
    passages = [parts[0] for parts in model.processor.split_documents(documents)]
    shares: dict[str, list[float]] = {name: [] for name in KEPT}
    for text, source in zip(rewritten(model, passages, factor), passages, strict=True):
        found = {"rouge_l": rouge_l(text, source), **kept_shares(text, source)}
        for name, value in found.items():
            if value is not None:
                shares[name].append(value)
    return {
        name: {**vars(bootstrap_interval(values, seed=seed)), "documents": len(values)}
        for name, values in shares.items()
        if values
    }


@torch.no_grad()
def rewritten(model: ClaraForRetrievalGeneration, passages: Sequence[str], factor: int = 1) -> list[str]:
    """Each passage as the generator repeats it from its memory alone, greedily."""
    memory = coarser(model.build_memory(list(passages), show_progress=False), factor)
    lengths = [len(row) for row in plain_ids(model.processor.tokenizer, passages)]
    order = sorted(range(len(passages)), key=lambda row: lengths[row])
    texts = [""] * len(passages)
    writer = ClaraModel(model)
    for start in tqdm(range(0, len(order), BATCH), desc="writing again", unit="batch"):
        rows = order[start : start + BATCH]
        memories = memory.gather(rows)
        slots = [[len(vectors)] for vectors in memories]
        prompts = model.processor.encode_messages([reconstruction_prompt()] * len(rows), slots)
        prompts = prompts.to(model.device)
        embeds = model.fill_slots(prompts["input_ids"], torch.cat(memories).to(model.device))
        longest = min(MAX_NEW_TOKENS, max(lengths[row] for row in rows) + 16)
        said = writer.write(embeds, prompts["attention_mask"], longest)
        for row, text in zip(rows, said, strict=True):
            texts[row] = text
    return texts
