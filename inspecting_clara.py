"""Looking into memories: what one says again in words, which tokens a question's memory decodes to.

Letters of the shapes: M memory tokens, H hidden width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from .documents_clara import check_texts
from .memory_clara import CorpusMemory
from .prompts_clara import paraphrase_prompt


def likeliest_tokens(model: Any, memory: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The likeliest tokens at each memory token by the base's own output head (the logit lens).

    Args:
        model: A model with a `decoder`, whose head is read without an adapter.
        memory: (M, H) last hidden states at the memory tokens.
        top: How many tokens, at most V.

    Returns:
        Ids and probabilities, both (M, top), the likeliest first.
    """
    head = model.decoder.get_output_embeddings()
    found = head(memory.to(head.weight)).float().softmax(dim=-1).topk(top, dim=-1)
    return found.indices, found.values


class InspectingMixin:
    """How [`ClaraForRetrievalGeneration`] shows what its memories hold; builds no autograd graph."""

    @torch.no_grad()
    def paraphrase_memory(self, memory: CorpusMemory, index: int, streamer: Any = None, **kwargs: Any) -> str:
        """Says again in words what the memory of one stored passage holds; its text is not read.

        Args:
            memory: A corpus memory made by this model.
            index: The passage's place in it.
            streamer: Gets the text as it is written.
            **kwargs: Ordinary generation arguments.

        Raises:
            ValueError: If another model made the memory.
            IndexError: If there is no passage of that index.
        """
        self._check_memory(memory)
        prompt = paraphrase_prompt(self.config.prompt_style)
        rows = memory[index]
        prompts = self._processor().encode_messages([prompt], 1, num_memory_tokens=len(rows))
        with self.lock:
            generation = self._generate_from(*self._filled(prompts, rows), streamer=streamer, **kwargs)
        return self._decode(generation.sequences, 1)[0]

    @torch.no_grad()
    def logit_lens(self, question: str, top: int = 8) -> list[list[tuple[str, float]]]:
        """The likeliest tokens at each memory token of a question (paper figure 4).

        Args:
            question: The question.
            top: Tokens of each memory token.

        Returns:
            For each of the M memory tokens its likeliest tokens as texts, with their probabilities.

        Raises:
            ValueError: If the question is empty or too long.
        """
        memory = self._reason_texts(check_texts([question], "questions"))[0]
        with self.lock:
            tokens, shares = likeliest_tokens(self, memory, top)
        tokenizer = self._processor().tokenizer
        return [
            [(tokenizer.decode([token]), share) for token, share in zip(ids, row, strict=True)]
            for ids, row in zip(tokens.tolist(), shares.tolist(), strict=True)
        ]
