"""MTEB and BEIR: `mteb.evaluate(ClaraMteb(model), tasks)` (`pip install 'clara-rag[mteb]'`)."""

from typing import Any

import numpy as np
from mteb.models import ModelMeta
from mteb.types import PromptType

from .encoder import DOCUMENT, QUERY, ClaraEncoder


class ClaraMteb(ClaraEncoder):
    """The search vectors of a model, as `mteb` wants an encoder.

    Args:
        model: A `ClaraForRetrievalGeneration`.
        name: `org/name` in the results.
    """

    def __init__(self, model: Any, name: str = "clara/unnamed") -> None:
        super().__init__(model)
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": name,
                "revision": model.memory_fingerprint()[:12],
                "max_tokens": model.config.doc_max_length,
                "embed_dim": model.config.get_text_config().hidden_size,
                "similarity_fn_name": "cosine",
                "framework": ["PyTorch"],
            }
        )

    def encode(
        self, inputs: Any, *, prompt_type: PromptType | None = None, batch_size: int = 32, **_: Any
    ) -> np.ndarray:
        """The vectors of the batches of a task; queries go through the query reasoner."""
        texts = [text for batch in inputs for text in batch["text"]]
        kind = QUERY if prompt_type == PromptType.query else DOCUMENT
        return super().encode(texts, prompt_name=kind, batch_size=batch_size)
