"""What the systems need of a language model: memories and answers from memories, or answers from text.

Letters of the shapes: B questions, N passages, K chosen, M memory tokens, H hidden width.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from clara.adapters_clara import adapter_parameters, wearing
from clara.checkpoint_clara import greedy_generation_config
from clara.documents_clara import Passages, to_passages
from clara.formats_clara import format_name
from clara.memory_clara import CorpusMemory
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.recompute_clara import RECOMPUTE
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


class MemoryModel(Protocol):
    """Compresses passages, places questions in the same space and answers from memories."""

    def fingerprint(self) -> str:
        """Identity of everything that decides an answer."""

    def split(self, documents: Sequence[str]) -> Passages:
        """Documents to passages; the parent of a passage is the number of its document."""

    def compress(self, passages: Passages, folder: Path | None, batch_size: int) -> CorpusMemory:
        """Memories of N passages, kept in `folder` and read from it the next time."""

    def reason(self, questions: Sequence[str]) -> Tensor:
        """B questions -> (B, M, H)."""

    def answer(
        self, questions: Sequence[str], memories: Sequence[Tensor], max_new_tokens: int
    ) -> list[tuple[str, int]]:
        """B questions and for each (K, M, H) memories -> answer and tokens read by the generator."""


class ClaraModel:
    """A CLaRa model as a `MemoryModel`.

    Args:
        model: in eval mode, with its processor.
        store: memories by this model; passages with a text that it holds are not compressed again.
    """

    def __init__(self, model: ClaraForRetrievalGeneration, store: CorpusMemory | None = None) -> None:
        self._model, self._store = model, store

    def fingerprint(self) -> str:
        """SHA-256 over base, all three adapters, memory tokens, connector, and a store's other format."""
        model = self._model
        digest = hashlib.sha256(model.memory_fingerprint().encode())
        digest.update("".join(other_format(model, self._store)).encode())
        for parameter in [*adapter_parameters(model.decoder), *model.own_parameters().values()]:
            digest.update(parameter.detach().to(torch.bfloat16).cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()

    def split(self, documents: Sequence[str]) -> Passages:
        """See `MemoryModel.split`."""
        return to_passages(documents, self._model.processor.split_documents)

    def compress(self, passages: Passages, folder: Path | None = None, batch_size: int = 32) -> CorpusMemory:
        """See `MemoryModel.compress`. A folder whose texts or compressor are others is an error."""
        if folder is not None and folder.exists():
            memory = self._model.load_memory(str(folder))
            if list(memory.texts) != passages.texts:
                raise ValueError(
                    f"{folder} holds memories of other documents: name another folder or remove it."
                )
            return memory
        memory = self._compressed(passages, batch_size)
        if folder is not None:
            memory.save_pretrained(folder)
        return memory

    def _compressed(self, passages: Passages, batch_size: int) -> CorpusMemory:
        """Memories of the passages, in RAM: as far as they are there those of the store, in its format."""
        places = {} if self._store is None else {text: row for row, text in enumerate(self._store.texts)}
        stored = [places.get(text, -1) for text in passages.texts]
        missing = [place for place, row in enumerate(stored) if row < 0]
        if len(missing) == len(stored) or self._store.stored_dtype == RECOMPUTE:
            return self._model.compress_passages(passages, batch_size, show_progress=True)
        memory = self._store.gather(torch.tensor(stored).clamp_min(0))
        if missing:
            texts = [passages.texts[place] for place in missing]
            fresh = self._model.compress_texts(texts, batch_size, show_progress=True)
            memory[missing] = fresh.to(memory.dtype)
        columns = vars(passages)
        kept = {name: getattr(self._store, name) for name in ("fingerprint", "base")}
        return CorpusMemory(memory, **columns, **kept, dtype=self._store.stored_dtype)

    @torch.no_grad()
    def reason(self, questions: Sequence[str]) -> Tensor:
        """See `MemoryModel.reason`."""
        model = self._model
        return model.reason(**model.processor.encode_questions(questions).to(model.device))

    @torch.no_grad()
    def answer(
        self, questions: Sequence[str], memories: Sequence[Tensor], max_new_tokens: int
    ) -> list[tuple[str, int]]:
        """See `MemoryModel.answer`: what `model.generate` answers from these memories in this order."""
        counts = [len(memory) for memory in memories]
        size = memories[0].shape[1]
        prompts = self._model.processor.encode_prompts(questions, counts, num_memory_tokens=size)
        texts = self.write(prompts, memories, max_new_tokens)
        lengths = prompts["attention_mask"].sum(dim=-1).tolist()
        return list(zip(texts, lengths, strict=True))

    @torch.no_grad()
    def write(
        self, prompts: Mapping[str, Tensor], memories: Sequence[Tensor], max_new_tokens: int
    ) -> list[str]:
        """What the generator says greedily after B prompts whose slots hold the memories, each (K, M, H)."""
        model = self._model
        slots = torch.cat([memory.flatten(0, 1) for memory in memories]).to(model.device)
        with model.lock, wearing(model.decoder, "generator"):
            sequences = model.decoder.generate(
                inputs_embeds=model.fill_slots(prompts["input_ids"].to(model.device), slots),
                attention_mask=prompts["attention_mask"].to(model.device),
                generation_config=with_limit(model.generation_config, max_new_tokens),
            )
        texts = model.processor.tokenizer.batch_decode(sequences, skip_special_tokens=True)
        return [text.strip() for text in texts]


def other_format(model: ClaraForRetrievalGeneration, store: CorpusMemory | None) -> list[str]:
    """The format in which a store keeps memories, if there is one and it is not the model's dtype."""
    return [] if store is None or store.stored_dtype == format_name(model.dtype) else [store.stored_dtype]


def memory_folder(
    output: Path,
    model: ClaraForRetrievalGeneration,
    documents: Sequence[str],
    store: CorpusMemory | None = None,
) -> Path:
    """A folder for each compressor, list of documents and format, so that no run meets another's memories.

    Args:
        output: where the folder goes.
        model: compresses.
        documents: what is compressed.
        store: as of `ClaraModel`; decides the format.
    """
    key = json.dumps([model.memory_fingerprint(), list(documents), *other_format(model, store)])
    return output / f"memory-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


class TextModel:
    """A causal LM that answers from token ids, greedily.

    Args:
        model: in eval mode; of a CLaRa model the `decoder`, which is the plain base outside a wearing block.
        tokenizer: its tokenizer.
        prompt_limit: longest prompt in tokens.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt_limit: int) -> None:
        self._model, self.tokenizer, self._limit = model, tokenizer, prompt_limit
        self._config: GenerationConfig = greedy_generation_config(model.generation_config)
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def fingerprint(self) -> str:
        """SHA-256 over name, shape and 64 evenly spaced values of every weight."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self._model.named_parameters()):
            flat = parameter.detach().reshape(-1)
            places = torch.linspace(0, len(flat) - 1, min(64, len(flat)), dtype=torch.float64).long()
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            digest.update(flat[places.to(flat.device)].float().cpu().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def answer(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[tuple[str, int]]:
        """B prompts as token ids -> answer and prompt length.

        Raises:
            ValueError: a prompt leaves no room for the answer.
        """
        longest = max(len(ids) for ids in prompts)
        if longest + max_new_tokens > self._limit:
            raise ValueError(
                f"a prompt has {longest} tokens and {max_new_tokens} new ones exceed the limit of "
                f"{self._limit}: choose fewer documents."
            )
        ids = torch.tensor([[self._pad] * (longest - len(row)) + list(row) for row in prompts])
        lengths = [len(row) for row in prompts]
        mask = torch.tensor([[0] * (longest - length) + [1] * length for length in lengths])
        device = self._model.device
        sequences = self._model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=with_limit(self._config, max_new_tokens, self._pad),
        )
        texts = self.tokenizer.batch_decode(sequences[:, longest:], skip_special_tokens=True)
        return [(text.strip(), length) for text, length in zip(texts, lengths, strict=True)]


def with_limit(config: GenerationConfig, max_new_tokens: int, pad: int | None = None) -> GenerationConfig:
    """A copy of a generation configuration with a longest answer, and a padding token where one is given."""
    copied = copy.deepcopy(config)
    copied.max_new_tokens = max_new_tokens
    if pad is not None:
        copied.pad_token_id = pad
    return copied
