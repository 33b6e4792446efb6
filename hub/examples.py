"""What a card shows of a model: facts measured on its weights, answers that it generated."""

from typing import Any

import torch

from ..adapters_clara import adapter_state
from ..configuration_clara import ADAPTERS
from ..data.sample_corpus import sample_documents, sample_questions
from ..evaluation.metrics import cover_exact_match, exact_match
from ..modeling_clara import ClaraForRetrievalGeneration
from .card import EMBEDDED_BASES, FIELDS, Examples, base_id

TRIES = 4


def model_facts(model: ClaraForRetrievalGeneration, base_model: str | None = None) -> dict[str, Any]:
    """What the card says of a model, from its weights and configuration.

    `base_model` is the Hub id of its base, where the configuration names none.
    """
    config = model.config
    states = {name: adapter_state(model.decoder, name) for name in ADAPTERS}
    raised = {
        name: any(bool(tensor.any()) for key, tensor in state.items() if "lora_B" in key)
        for name, state in states.items()
    }
    pairs = zip(states["compressor"].values(), states["query_reasoner"].values(), strict=True)
    width = config.get_text_config().hidden_size
    base = [p for name, p in model.decoder.named_parameters() if ".lora_" not in name]
    name = config.base_model_name_or_path
    return {
        "base_name": name if name in EMBEDDED_BASES else base_id(name),
        "base_model": base_model or base_id(name),
        "config": {field: getattr(config, field) for field in FIELDS},
        "trained": [name for name in ADAPTERS if raised[name]],
        "reasoner_is_copy": all(torch.equal(first, second) for first, second in pairs),
        "base_parameters": sum(p.numel() for p in base),
        "adapter_parameters": sum(tensor.numel() for tensor in states["compressor"].values()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "memory_bytes": config.num_memory_tokens * width * model.dtype.itemsize,
        "fingerprint": model.memory_fingerprint(),
    }


def make_examples(model: ClaraForRetrievalGeneration, count: int) -> Examples:
    """Answers to questions of the sample corpus, greedily, from all its documents: exact ones first.

    Four times as many questions are asked as are shown, evenly spaced; an answer is right if it holds a gold
    answer, exact if it equals one. Where too few are right, wrong ones are shown too, and marked.

    Args:
        model: The model that is published.
        count: How many to show; 0 gives none.

    Raises:
        ValueError: If there are not so many questions.
    """
    documents, questions = sample_documents(), sample_questions()
    if not 0 <= count <= len(questions):
        raise ValueError(f"`count` must be from 0 to the {len(questions)} sample questions, got {count}.")
    if not count:
        return Examples()
    asked = min(TRIES * count, len(questions))
    chosen = [questions[row * len(questions) // asked] for row in range(asked)]
    memory = model.build_memory(documents, show_progress=False)
    out = model.generate([row["question"] for row in chosen], memory, return_dict_in_generate=True)
    rows = [
        {
            "question": row["question"],
            "answer": answer,
            "gold": max(row["answers"], key=lambda gold: cover_exact_match(answer, [gold])),
            "documents": [{"id": ids[0]}],
            "right": bool(cover_exact_match(answer, row["answers"])),
        }
        for row, answer, ids in zip(chosen, out.answers, out.document_ids, strict=True)
    ]

    def worse(row: dict[str, Any]) -> tuple[bool, bool]:
        return not row["right"], not exact_match(row["answer"], [row["gold"]])

    return Examples(sorted(rows, key=worse)[:count], asked, sum(row["right"] for row in rows))
