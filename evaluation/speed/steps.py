"""Optimizer steps as the trainer makes them, with weights that stay as they are."""

from collections.abc import Mapping
from typing import Any

import torch
from clara.adapters_clara import wearing
from clara.modeling_clara import positions
from clara.retrieval_clara import Memories
from clara.train.optimizer import MasterAdamW
from clara.train.stages import get_stage, prepare_stage
from torch import Tensor

UNREAD = ("positives", "query_texts")  # of a batch, by the model
LOW = (torch.bfloat16, torch.float16)


class Stepper:
    """Forward, backward, clipping and AdamW at a learning rate of 0: all of the work, no change.

    Args:
        model: A CLaRa model; it is put at the start of the stage and into training mode.
        stage: The stage.
    """

    def __init__(self, model: Any, stage: str) -> None:
        prepare_stage(model, stage)
        self.model = model.train()
        self.alignment_weight = get_stage(stage).alignment_weight
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        low = any(parameter.dtype in LOW for parameter in self.parameters)
        kind = MasterAdamW if low else torch.optim.AdamW
        self.optimizer = kind(self.parameters, lr=0.0, weight_decay=0.0)

    def __call__(self, batch: Mapping[str, Any]) -> float:
        """One step over a collator's batch; returns the answers' loss."""
        inputs = {name: value for name, value in self.moved(batch).items() if name not in UNREAD}
        outputs = self.model(**inputs)
        loss = outputs.loss
        if outputs.alignment_loss is not None:
            loss = loss + self.alignment_weight * outputs.alignment_loss
        self.update(loss)
        return float(outputs.loss.detach())

    def update(self, loss: Tensor) -> None:
        """Backward and the optimizer."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def moved(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch on the model's device."""
        device = self.model.device
        return {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}

    def with_all_logits(self, batch: Mapping[str, Any]) -> float:
        """The same step with logits of every position and the base's own loss over them."""
        inputs = self.moved(batch)
        memory = self.model.compress(inputs["document_input_ids"], inputs["document_attention_mask"])
        places = inputs["document_indices"]
        rows = Memories(memory.values[places], memory.counts[places]).rows()
        embeds = self.model.fill_slots(inputs["input_ids"], rows)
        mask = inputs["attention_mask"]
        with self.model.lock, wearing(self.model.decoder, "generator"):
            loss = self.model.decoder(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=positions(mask),
                labels=inputs["labels"],
                use_cache=False,
            ).loss
        self.update(loss)
        return float(loss.detach())
