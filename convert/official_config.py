"""Turns the configuration and tokenizer of a released checkpoint into ours."""

import logging
from typing import Any

from transformers import AddedToken, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from ..checkpoint_clara import greedy_generation_config
from ..configuration_clara import ClaraConfig

logger = logging.getLogger(__name__)

MODEL_TYPE = "CLaRa"
COUNTS = ("compr_rate", "doc_max_length", "lora_r")
FLAGS = ("different_mem_tokens", "sep")
SPECIALS = ("<AE>", "<ENC>", "<SEP>")
FRAME_TOKENS = 3  # encoder inputs are padded to doc_max_length and these: <ENC>, beginning, end
ALPHA_PER_RANK = 2


def check_fields(fields: dict[str, Any], where: str) -> None:
    """Raises a ValueError if a released config.json lacks a field, or asks for what cannot be converted."""
    if fields.get("model_type", MODEL_TYPE) != MODEL_TYPE:
        raise ValueError(
            f"`model_type` in {where} is {fields['model_type']!r}: only {MODEL_TYPE!r} is converted."
        )
    for name in COUNTS:
        value = fields.get(name)
        if type(value) is not int or value < 1:
            raise ValueError(f"`{name}` in {where} must be a whole number above 0, got {value!r}.")
    for name in FLAGS:
        if type(fields.get(name)) is not bool:
            raise ValueError(f"`{name}` in {where} must be true or false, got {fields.get(name)!r}.")
    _check_kind(fields, where)


def _check_kind(fields: dict[str, Any], where: str) -> None:
    if fields["compr_rate"] > fields["doc_max_length"]:
        raise ValueError(f"`compr_rate` in {where} is above `doc_max_length`: no memory token is left.")
    if fields.get("compr_model_name"):
        raise ValueError(
            f"`compr_model_name` in {where} is {fields['compr_model_name']!r}: a compressor that is another "
            "model than the base cannot be converted."
        )
    if fields.get("quantization", "no") != "no":
        logger.warning(
            "%s was trained on a base quantised to %s; the conversion takes the base as it is",
            where,
            fields["quantization"],
        )


def memory_marks(fields: dict[str, Any]) -> list[str]:
    """The M vocabulary entries of the memory tokens: all different, or M times the same."""
    count = fields["doc_max_length"] // fields["compr_rate"]
    return [f"<MEM{i}>" for i in range(count)] if fields["different_mem_tokens"] else ["<MEM>"] * count


def extend_tokenizer(tokenizer: PreTrainedTokenizerBase, fields: dict[str, Any], base: str) -> None:
    """Adds the format's special tokens; a ValueError if the base has none that begin and end a text."""
    if tokenizer.bos_token is None and "qwen" in str(fields.get("decoder_model_name", "")).lower():
        extra = [str(token) for token in tokenizer.extra_special_tokens]
        tokenizer.bos_token, tokenizer.eos_token = [*extra, None, None][:2]
    for name in ("bos_token", "eos_token"):
        if getattr(tokenizer, name) is None:
            raise ValueError(
                f"The tokenizer of {base} has no `{name}`, which stands around every text of this format: "
                "give the base with which the checkpoint was trained."
            )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.bos_token
    names = dict.fromkeys([*memory_marks(fields), *SPECIALS])
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names], True)


def make_config(
    fields: dict[str, Any],
    text_config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    base: str,
    revision: str | None,
    has_query_reasoner: bool,
) -> ClaraConfig:
    """Our configuration that behaves as the released checkpoint does.

    The base's `text_config` gets the size of the vocabulary of its tokenizer, which has the format's special
    tokens. A checkpoint without a query reasoner takes all documents in order.
    """
    text_config.get_text_config().vocab_size = len(tokenizer)
    marks, rate = memory_marks(fields), fields["compr_rate"]
    return ClaraConfig(
        text_config=text_config,
        compression_rate=rate,
        doc_max_length=rate * len(marks),
        retrieval_top_k=fields.get("generation_top_k") or 5,
        lora_r=fields["lora_r"],
        lora_alpha=ALPHA_PER_RANK * fields["lora_r"],
        retrieval_pooling="flatten",
        base_model_name_or_path=base,
        base_model_revision=revision,
        base_is_changed=True,
        text_prefix="<ENC>" + tokenizer.bos_token,
        text_suffix=tokenizer.eos_token,
        encoder_length=fields["doc_max_length"] + FRAME_TOKENS,
        long_texts="cut",
        encoder_positions="columns",
        prompt_style="released",
        memory_suffix="<SEP>",
        memory_marks="" if fields["sep"] else "".join(marks) + "<SEP>",
        memory_order="score" if has_query_reasoner else "document",
        strip_answers=False,
    )


def make_generation_config(fields: dict[str, Any], base: GenerationConfig) -> GenerationConfig:
    """The base's settings made greedy, with the checkpoint's number of new tokens."""
    settings = greedy_generation_config(base)
    settings.max_new_tokens = fields.get("max_new_tokens") or settings.max_new_tokens
    return settings
