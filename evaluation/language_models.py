"""What the systems need of a language model: memories and answers from memories, or answers from text.

Letters of the shapes: B questions, N passages, K chosen, m vectors of a memory, H hidden width,
D width of a search vector.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from clara.adapters_clara import adapter_parameters, wearing
from clara.checkpoint_clara import greedy_generation_config
from clara.memory_clara import CorpusMemory
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.processing_clara import Passages, to_passages
from clara.prompts_clara import alone_and_together
from clara.retrieval_clara import format_name
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


class ClaraModel:
    """A CLaRa model that compresses passages, places questions in the same space and answers from memories.

    It is in eval mode, with its processor. Passages with a text that the store, one by this model, holds are
    not compressed again, and their search vectors are those of the memories as they are kept.
    """

    def __init__(self, model: ClaraForRetrievalGeneration, store: Any = None) -> None:
        self._model, self._store = model, store

    def fingerprint(self) -> str:
        """SHA-256 over all that decides an answer: base, adapters, own parameters, a store's other format."""
        model = self._model
        digest = hashlib.sha256(model.memory_fingerprint().encode())
        digest.update("".join(other_format(model, self._store)).encode())
        for parameter in [*adapter_parameters(model.decoder), *model.own_parameters().values()]:
            digest.update(parameter.detach().to(torch.bfloat16).cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()

    def split(self, documents: Sequence[str]) -> Passages:
        """Documents to passages; the parent of a passage is the number of its document."""
        return to_passages(documents, self._model.processor.split_documents)

    def compress(self, passages: Passages, folder: Path | None = None, batch_size: int = 32) -> CorpusMemory:
        """Memories of N passages, kept in `folder` and read from it the next time.

        Raises:
            ValueError: the folder holds memories of other texts, or by another compressor.
        """
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
        store = self._store
        places = {} if store is None else {text: row for row, text in enumerate(store.texts)}
        missing = [text for text in passages.texts if text not in places]
        if len(missing) == len(passages.texts):
            return self._model.compress_passages(passages, batch_size, show_progress=True)
        known = {text: places[text] for text in passages.texts if text in places}
        memories = dict(zip(known, store.gather(list(known.values())), strict=True))
        if missing:
            values, offsets, _ = self._model.compress_texts(missing, batch_size, show_progress=True)
            parts = values.to(next(iter(memories.values())).dtype).split(offsets.diff().tolist())
            memories.update(zip(missing, parts, strict=True))
        rows = [memories[text] for text in passages.texts]
        values, flat = torch.cat(rows), self._model.config.retrieval_pooling == "flatten"
        return CorpusMemory(
            values,
            **vars(passages),
            vectors=values.float().view(len(rows), -1) if flat else None,
            fingerprint=store.fingerprint,
            base=store.base,
            dtype=store.dtype,
            offsets=torch.tensor([0, *map(len, rows)]).cumsum(0),
        )

    def question_vectors(self, questions: Sequence[str]) -> Tensor:
        """B questions -> their search vectors, (B, D)."""
        return self._model.question_vectors(questions)

    @torch.no_grad()
    def answer(
        self, questions: Sequence[str], memories: Sequence[Sequence[Tensor]], max_new_tokens: int
    ) -> list[tuple[str, int]]:
        """B questions and for each its memories (m, H) -> answer and tokens read by the generator.

        The answers are what `model.generate` says to these memories in this order, read together.
        """
        model = self._model
        embeds, mask = model.embed_answers(questions, memories)
        with model.lock, wearing(model.decoder, "generator"):
            sequences = model.decoder.generate(
                inputs_embeds=embeds,
                attention_mask=mask,
                generation_config=changed(model.generation_config, max_new_tokens=max_new_tokens),
            )
        texts = model.processor.tokenizer.batch_decode(sequences, skip_special_tokens=True)
        return list(zip(map(str.strip, texts), mask.sum(dim=-1).tolist(), strict=True))

    def answer_each(
        self,
        questions: Sequence[str],
        memories: Sequence[Sequence[Tensor]],
        scores: Sequence[Sequence[float]],
        max_new_tokens: int,
    ) -> list[tuple[str, int]]:
        """As `answer`, with `reading` "each"; `scores` are the cosines of the memories."""
        model, processor = self._model, self._model.processor
        padded = [torch.tensor(row) for row in scores]
        padded = torch.nn.utils.rnn.pad_sequence(padded, batch_first=True, padding_value=float("-inf"))
        with model.lock:
            out = model.read_memories(
                list(questions), list(map(list, memories)), padded, "each", max_new_tokens=max_new_tokens
            )
        texts = processor.tokenizer.batch_decode(out.sequences, skip_special_tokens=True)
        sizes = []
        for question, row in zip(questions, memories, strict=True):
            slots = alone_and_together([len(memory) for memory in row], model.config.reading_joint)
            prompts = processor.encode_prompts([question] * len(slots), slots)
            sizes.append(int(prompts["attention_mask"].sum()))
        return list(zip(map(str.strip, texts), sizes, strict=True))


def other_format(model: ClaraForRetrievalGeneration, store: Any) -> list[str]:
    """The format in which a store keeps memories, if there is one and it is not the model's dtype."""
    return [] if store is None or store.dtype == format_name(model.dtype) else [store.dtype]


def memory_folder(
    output: Path, model: ClaraForRetrievalGeneration, documents: Sequence[str], store: Any = None
) -> Path:
    """A folder for each compressor, list of documents and format, so that no run meets another's memories."""
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
    def answer(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, streamer: Any = None, **fields: Any
    ) -> list[tuple[str, int]]:
        """B prompts as token ids -> answer and prompt length; `fields` of the generation configuration.

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
            generation_config=changed(
                self._config, max_new_tokens=max_new_tokens, pad_token_id=self._pad, **fields
            ),
            streamer=streamer,
        )
        texts = self.tokenizer.batch_decode(sequences[:, longest:], skip_special_tokens=True)
        return [(text.strip(), length) for text, length in zip(texts, lengths, strict=True)]


def base_of(model: ClaraForRetrievalGeneration) -> TextModel:
    """The plain base of a CLaRa model, to read text."""
    return TextModel(model.decoder, model.processor.tokenizer, model.config.prompt_limit)


def changed(config: GenerationConfig, **fields: Any) -> GenerationConfig:
    """A copy of a generation configuration with other fields."""
    copied = copy.deepcopy(config)
    copied.update(**fields)
    return copied
