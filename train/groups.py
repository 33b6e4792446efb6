"""The micro-batches of one optimizer step as one whole: shares of its documents and questions.

A loss that is a mean over documents or over questions with positives is the mean over the whole step, on all
devices, only if each micro-batch counts by what it has of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

WHOLE: Mapping[str, float] = MappingProxyType({"documents": 1.0, "questions": 1.0, "rows": 1.0})


def counts(batch: Mapping[str, Any], positives: Tensor | None = None) -> dict[str, float]:
    """Documents of a batch, each as often as shown; questions with a relevance label; all that are scored.

    Args:
        batch: What the stage's collator makes.
        positives: (B, N) or (Q, D) bool, if they were taken out of the batch.
    """
    shown = batch.get("document_counts")
    documents = len(batch.get("document_input_ids", ())) if shown is None else int(shown.sum())
    positives = batch.get("positives") if positives is None else positives
    if "match_indices" in batch:
        rows = questions = len(batch["match_indices"])
    else:
        rows = 0 if positives is None else len(positives)
        questions = 0 if positives is None else int(positives.any(dim=-1).sum())
    return {"documents": documents, "questions": questions, "rows": rows}


@dataclass
class Group:
    """The batches of one optimizer step.

    Attributes:
        totals: Documents and questions of the step; of all devices where `devices` is above 1.
        devices: Devices over which totals are summed and gradients averaged.
    """

    totals: dict[str, float] = field(default_factory=dict)
    devices: int = 1

    @classmethod
    def of(cls, batches: Sequence[Mapping[str, Any]], device: torch.device, accelerator: Any = None) -> Group:
        """Counts the batches; every process must call it where an accelerator is given."""
        found = [counts(batch) for batch in batches]
        totals = {name: float(sum(one[name] for one in found)) for name in WHOLE}
        if accelerator is None:
            return cls(totals)
        gathered = accelerator.gather(torch.tensor([list(totals.values())], device=device))
        totals = dict(zip(totals, gathered.sum(dim=0).tolist(), strict=True))
        return cls(totals, accelerator.num_processes)

    def shares(self, batch: Mapping[str, Any], positives: Tensor | None = None) -> dict[str, float]:
        """What part of the step's documents and questions a batch has, times the devices."""
        own = counts(batch, positives)
        return {
            name: self.devices * own[name] / self.totals[name] if self.totals.get(name) else 1.0
            for name in WHOLE
        }


def own_documents(indices: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Which documents of a batch are a question's own: the one it was asked of, and every copy of it.

    Args:
        indices: (Q,) the document of each question.
        input_ids: (D, L) ids of the documents, padded on the left.
        attention_mask: (D, L).

    Returns:
        (Q, D) bool.
    """
    ids = input_ids.masked_fill(~attention_mask.bool(), -1)
    return (ids[indices].unsqueeze(1) == ids.unsqueeze(0)).all(dim=-1)
