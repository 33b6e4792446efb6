"""A teacher in this process: a transformers causal LM, fed with batches of the waiting requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .teacher import Reply, Request, TeacherUnavailableError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LocalTeacher:
    """Answers requests with `model.generate`, up to `batch_size` waiting requests of one kind at a time.

    The tokenizer needs a chat template. The schema of a request is not enforced here; the prompt states the
    form and the reply is parsed tolerantly.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 8
    ) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self._waiting: list[tuple[Request, asyncio.Future]] = []
        self._busy = asyncio.Lock()
        tokenizer.padding_side = "left"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    @classmethod
    def from_pretrained(cls, name: str, batch_size: int = 8, **options: Any) -> LocalTeacher:
        """Loads a model by path, Hub id or embedded name; a TeacherUnavailableError if that fails."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from ...bases.embedded import embedded_base_path, is_embedded

        try:
            path = embedded_base_path(name) if is_embedded(name) else name
            model = AutoModelForCausalLM.from_pretrained(path, **options).eval()
            return cls(model, AutoTokenizer.from_pretrained(path), batch_size)
        except (OSError, ValueError) as error:
            raise TeacherUnavailableError(f"the local teacher {name!r} cannot be loaded: {error}") from error

    async def complete(self, request: Request) -> Reply:
        """Answers one request; see `Teacher.complete`."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        await asyncio.sleep(0)  # lets the requests of the same moment join the batch
        async with self._busy:
            if not future.done():
                await self._answer_batch()
        return await future

    async def _answer_batch(self) -> None:
        """Answers the oldest waiting request, and with it others of the same decoding settings."""
        temperature, seed = self._waiting[0][0].temperature, self._waiting[0][0].seed
        batch = [item for item in self._waiting if _same(item[0], temperature, seed)][: self.batch_size]
        self._waiting = [item for item in self._waiting if item not in batch]
        requests = [request for request, _ in batch]
        try:
            replies = await asyncio.to_thread(self._generate, requests)
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), reply in zip(batch, replies, strict=True):
            if not future.done():
                future.set_result(reply)

    def _generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Runs the model on one batch of equal decoding settings."""
        import torch

        options = {"tokenize": False, "add_generation_prompt": True}
        texts = [self.tokenizer.apply_chat_template(list(asked.messages), **options) for asked in requests]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        length, limit = inputs["input_ids"].shape[1], max(request.max_tokens for request in requests)
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and length + limit > context:
            alone = len(requests) == 1
            return [Reply("", "bad_request") if alone else self._generate([r])[0] for r in requests]
        sampling = {"do_sample": False}
        if requests[0].temperature:
            torch.manual_seed(requests[0].seed)
            sampling = {"do_sample": True, "temperature": requests[0].temperature}
        with torch.inference_mode():
            inputs = inputs.to(self.model.device)
            sequences = self.model.generate(**inputs, max_new_tokens=limit, **sampling)
        prompts = inputs["attention_mask"].sum(dim=1).tolist()
        return [
            self._reply(request, ids.tolist(), prompt)
            for request, ids, prompt in zip(requests, sequences[:, length:], prompts, strict=True)
        ]

    def _reply(self, request: Request, ids: list[int], prompt_tokens: int) -> Reply:
        """Cuts one row of new token ids at the end mark or the request's limit."""
        ends = self.model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        stop = next((i for i, token in enumerate(ids) if token in ends), None)
        finished = stop is not None and stop < request.max_tokens
        ids = ids[: stop if finished else request.max_tokens]
        text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return Reply(text, "stop" if finished else "length", prompt_tokens, len(ids))


def _same(request: Request, temperature: float, seed: int) -> bool:
    """Whether a request may share a batch: greedy ones always, sampled ones only with the same seed."""
    return request.temperature == temperature and (temperature == 0 or request.seed == seed)
