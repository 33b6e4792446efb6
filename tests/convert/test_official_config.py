"""Released configurations and tokenizers in ours."""

import pytest
import transformers
from clara.convert.official_config import (
    check_fields,
    extend_tokenizer,
    make_config,
    make_generation_config,
    memory_marks,
)
from conftest import make_tokenizer, text_config

FIELDS = {
    "model_type": "CLaRa",
    "compr_rate": 32,
    "doc_max_length": 256,
    "lora_r": 16,
    "sep": True,
    "different_mem_tokens": True,
    "generation_top_k": 3,
    "max_new_tokens": 128,
    "quantization": "no",
}
VOCABULARY = len(make_tokenizer())


def config_of(reasoner=True, **changes):
    fields, tokenizer = {**FIELDS, **changes}, make_tokenizer()
    extend_tokenizer(tokenizer, fields, "base")
    return make_config(fields, text_config("mistral"), tokenizer, "org/base", None, reasoner)


def test_numbers():
    config = config_of()
    assert (config.num_memory_tokens, config.encoder_length, config.retrieval_top_k) == (8, 259, 3)
    assert (config.lora_r, config.lora_alpha) == (16, 32) and config_of(lora_r=4).lora_alpha == 8
    assert config.text_config.vocab_size == VOCABULARY + 11
    assert (config.text_prefix, config.text_suffix) == ("<ENC><|im_start|>", "<|im_end|>")
    assert (config.memory_suffix, config.memory_marks, config.memory_order) == ("<SEP>", "", "score")
    assert config.base_is_changed and not config.strip_answers
    assert config_of(reasoner=False).memory_order == "document"


def test_a_rate_that_does_not_divide_the_length():
    config = config_of(compr_rate=100)
    assert (config.num_memory_tokens, config.doc_max_length, config.encoder_length) == (2, 200, 259)


def test_memory_tokens_are_distinct_or_shared():
    assert memory_marks({**FIELDS, "compr_rate": 128}) == ["<MEM0>", "<MEM1>"]
    assert memory_marks({**FIELDS, "compr_rate": 128, "different_mem_tokens": False}) == ["<MEM>", "<MEM>"]
    assert config_of(different_mem_tokens=False).text_config.vocab_size == VOCABULARY + 4
    assert config_of(compr_rate=128, sep=False).memory_marks == "<MEM0><MEM1><SEP>"


@pytest.mark.parametrize("name", ["compr_rate", "doc_max_length", "lora_r", "sep", "different_mem_tokens"])
@pytest.mark.parametrize("value", [None, 0, "16", 2.0])
def test_a_field_that_is_missing_or_of_another_type(name, value):
    fields = {key: found for key, found in {**FIELDS, name: value}.items() if found is not None}
    with pytest.raises(ValueError, match=f"`{name}` in place must be"):
        check_fields(fields, "place")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "PISCO"}, "`model_type` in place is 'PISCO'"),
        ({"compr_rate": 512}, "above `doc_max_length`"),
        ({"compr_model_name": "bert"}, "another model than the base"),
    ],
)
def test_what_cannot_be_converted(changes, message):
    check_fields(FIELDS, "place")
    with pytest.raises(ValueError, match=message):
        check_fields({**FIELDS, **changes}, "place")


def test_a_quantised_training_base_is_mentioned(caplog):
    check_fields({**FIELDS, "quantization": "int4"}, "place")
    assert "quantised to int4" in caplog.text


def test_texts_need_a_beginning_and_an_end():
    tokenizer = make_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="tokenizer of org/base has no `bos_token`"):
        extend_tokenizer(tokenizer, FIELDS, "org/base")


def test_qwen_bases_begin_and_end_with_their_first_two_extra_tokens(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.bos_token, tokenizer.eos_token = None, "<|endoftext|>"
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    extend_tokenizer(loaded, {**FIELDS, "decoder_model_name": "Qwen/Qwen3-4B"}, "base")
    assert (loaded.bos_token, loaded.eos_token) == ("<|im_start|>", "<|im_end|>")


def test_a_tokenizer_without_padding_pads_with_the_beginning():
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    extend_tokenizer(tokenizer, FIELDS, "base")
    assert tokenizer.pad_token == tokenizer.bos_token
    ids = tokenizer.convert_tokens_to_ids(["<MEM0>", "<MEM7>", "<AE>", "<ENC>", "<SEP>"])
    assert [token - VOCABULARY for token in ids] == [0, 7, 8, 9, 10]


def test_generation_is_greedy_and_as_long_as_there():
    base = transformers.GenerationConfig(
        do_sample=True, top_p=0.9, eos_token_id=[2, 3], repetition_penalty=1.1
    )
    settings = make_generation_config(FIELDS, base)
    assert (settings.do_sample, settings.max_new_tokens, settings.eos_token_id) == (False, 128, [2, 3])
    assert settings.repetition_penalty == 1.1
    assert make_generation_config({}, base).max_new_tokens == 64
