"""How much each benchmark does, and on what: the sample corpus cut to lengths, models with random weights.

What such a model says means nothing, what it costs does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from clara.checkpoint_clara import base_path, greedy_generation_config, make_processor
from clara.configuration_clara import ClaraConfig
from clara.data.sample_corpus import sample_texts
from clara.memory_clara import CorpusMemory
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.prompts_clara import plain_offsets
from clara.train.plan import SHAPES
from transformers import AutoConfig, AutoTokenizer, MistralConfig, PreTrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sizes:
    """Amounts of work: enough to measure on two CPU cores in minutes."""

    passages: int = 32  # compressed in a round
    batch_size: int = 16  # passages of one pass
    passage_tokens: tuple[int, int] = (120, 200)  # shortest and longest passage
    padded: int = 256  # length that the alternative pads to
    store: int = 40  # documents in the store that is searched
    document_tokens: int = 200  # length of these documents
    documents: tuple[int, ...] = (1, 5, 20)  # numbers of documents given to the generator
    new_tokens: int = 32  # generated, the first one included
    answers: int = 16  # questions of one batch in generation
    answer_tokens: int = 64  # tokens of each of these answers
    alone: int = 2  # questions answered one at a time in a round
    searched: tuple[int, ...] = (1_000, 10_000)  # passages in the search benchmark
    candidates: int = 20  # pool of a question in end-to-end training
    questions: int = 4  # of an end-to-end step
    rows: int = 4  # documents of a pretraining step
    signals: int = 6  # of each of these documents
    bucket_rows: int = 32  # documents of the comparison of length buckets
    bucket_batch: int = 4  # documents of one of its steps


ACCELERATOR = Sizes(
    passages=96, batch_size=32, alone=4, searched=(10_000, 100_000), questions=8, rows=8, bucket_rows=64
)


def sizes_for(device: torch.device) -> Sizes:
    """The amounts for a device."""
    return Sizes() if device.type == "cpu" else ACCELERATOR


def cut(tokenizer: PreTrainedTokenizerBase, text: str, tokens: int) -> str:
    """The first words of a text that take at most so many tokens."""
    offsets = plain_offsets(tokenizer, [text])[0]
    while len(offsets) > tokens:
        text = text[: offsets[tokens - 1][1]].rsplit(" ", 1)[0]
        offsets = plain_offsets(tokenizer, [text])[0]
    return text


def sample_passages(tokenizer: PreTrainedTokenizerBase, count: int, tokens: tuple[int, int]) -> list[str]:
    """Passages of the sample corpus, each of `tokens[0]` to `tokens[1]` tokens; a ValueError if too few."""
    texts = [cut(tokenizer, text, tokens[1]) for text in sample_texts()]
    lengths = [len(offsets) for offsets in plain_offsets(tokenizer, texts)]
    kept = [text for text, length in zip(texts, lengths, strict=True) if tokens[0] <= length]
    return _first(kept, count, "passages")


def sample_memory(model: Any, count: int, sizes: Sizes) -> CorpusMemory:
    """Memories of nearly equally long documents: a passage of the sample corpus, continued by the next one.

    Raises:
        ValueError: If the corpus has fewer than `count` passages.
    """
    texts = sample_texts()
    joined = [f"{text} {after}" for text, after in zip(texts, texts[1:] + texts[:1], strict=True)]
    tokenizer, tokens = model.processor.tokenizer, sizes.document_tokens
    documents = [cut(tokenizer, text, tokens) for text in _first(joined, count, "documents")]
    return model.build_memory(documents, batch_size=sizes.batch_size, show_progress=False)


def _first(items: Sequence[str], count: int, name: str) -> list[str]:
    if len(items) < count:
        raise ValueError(f"`{name}` must be at most {len(items)} with the sample corpus, got {count}.")
    return list(items[:count])


EMBEDDED = "smollm2-135m"
MISTRAL = SHAPES["mistralai/Mistral-7B-Instruct-v0.2"][1]
PRESETS: Mapping[str, Callable[[int], PreTrainedConfig]] = {
    EMBEDDED: lambda vocabulary: AutoConfig.from_pretrained(base_path(EMBEDDED), vocab_size=vocabulary),
    "mistral-7b": lambda vocabulary: MistralConfig(**{**MISTRAL, "vocab_size": vocabulary}),
}


def random_model(
    preset: str,
    device: torch.device | str,
    dtype: torch.dtype = torch.bfloat16,
    text_config: PreTrainedConfig | None = None,
    tokenizer: Any = None,
    **fields: Any,
) -> ClaraForRetrievalGeneration:
    """Makes a model of a preset's or another shape, with random weights and the embedded base's tokenizer.

    The vocabulary is the tokenizer's, so that the sample texts can be read without the preset's own files.
    `fields` are those of `ClaraConfig`.
    """
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(base_path(EMBEDDED))
    shape = text_config or PRESETS[preset](len(tokenizer))
    config = ClaraConfig(text_config=shape, **{"lora_dropout": 0.0, **fields})
    with torch.device(device):
        model = ClaraForRetrievalGeneration._from_config(config, dtype=dtype)
    model.processor = make_processor(tokenizer, config)
    model.generation_config = greedy_generation_config(model.generation_config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model.eval()
