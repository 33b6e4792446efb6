"""Answers from a vLLM server that holds the merged generator: memories travel as prompt embeddings.

The format is that of vLLM 0.33.0 (`vllm serve FOLDER --enable-prompt-embeds`): `prompt_embeds` of
`/v1/completions` is the base64 text of what `torch.save` writes of one (L, H) tensor. That file is a pickle,
which vLLM reads with `weights_only=True`; here it is only ever written, never read.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def encode_embeds(embeds: Tensor) -> str:
    """One prompt's embeddings (L, H) as vLLM reads them."""
    buffer = io.BytesIO()
    # A copy: torch.save writes the whole storage that a view belongs to.
    torch.save(embeds.detach().to("cpu", copy=True).contiguous(), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


class ClaraVllmClient:
    """`generate`, with the answers written by a vLLM server.

    Here run the query reasoner, the search and the filling of the slots; there runs the merged generator.

    Args:
        model: A `ClaraForRetrievalGeneration`, such as the `clara` folder of `clara export vllm`.
        base_url: The server's address, ending in `/v1`.
        served_model: The name under which it serves the exported folder; the first it lists by default.
        api_key: Its key, if it asks for one.
        timeout: Seconds to wait for an answer.
        max_retries: Attempts after a failed connection or a busy server (the `openai` package's own).

    Raises:
        ValueError: If the server lists no model.
    """

    def __init__(
        self,
        model: Any,
        base_url: str,
        served_model: str | None = None,
        api_key: str = "EMPTY",
        timeout: float = 120.0,
        max_retries: int = 2,
    ) -> None:
        from openai import OpenAI

        self.model = model
        self._client = OpenAI(base_url=base_url, api_key=api_key, timeout=timeout, max_retries=max_retries)
        self.served_model = served_model or self._first_model(base_url)

    def _first_model(self, base_url: str) -> str:
        served = self._client.models.list().data
        if not served:
            raise ValueError(f"{base_url} lists no model: name one with `served_model`.")
        return served[0].id

    def prompt_embeds(
        self, questions: Sequence[str], memory: Any, retrieval_top_k: int | None = None
    ) -> tuple[Any, list[str]]:
        """What was found for B questions, and their B prompts as vLLM reads them."""
        found, embeds, mask = self.model.embed_prompts(questions, memory, retrieval_top_k)
        return found, [encode_embeds(row[kept.bool()]) for row, kept in zip(embeds, mask, strict=True)]

    def generate(
        self,
        questions: str | Sequence[str],
        memory: Any,
        retrieval_top_k: int | None = None,
        max_new_tokens: int | None = None,
        **fields: Any,
    ) -> str | list[str]:
        """Answers questions from the memories nearest to them.

        Args:
            questions: One question or B of them, sent in one request.
            memory: As in `model.generate`.
            retrieval_top_k: K; `min(config.retrieval_top_k, N)` by default.
            max_new_tokens: Longest answer; the model's own by default.
            **fields: Further fields of the request; `temperature` is 0 by default.

        Returns:
            A text for one question, a list of texts for several.

        Raises:
            openai.OpenAIError: If the server cannot be reached or refuses the request.
            ValueError: As `model.generate`.
        """
        single = isinstance(questions, str)
        _, prompts = self.prompt_embeds([questions] if single else questions, memory, retrieval_top_k)
        response = self._client.completions.create(
            model=self.served_model,
            prompt=None,
            max_tokens=max_new_tokens or self.model.generation_config.max_new_tokens,
            extra_body={"prompt_embeds": prompts},
            **{"temperature": 0.0, **fields},
        )
        choices = sorted(response.choices, key=lambda choice: choice.index)
        strip = self.model.config.strip_answers
        answers = [choice.text.strip() if strip else choice.text for choice in choices]
        return answers[0] if single else answers
