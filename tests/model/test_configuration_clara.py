"""ClaraConfig: numbers checked once, unknown fields refused, round trips, the reference presets."""

import json

import pytest
from clara.configuration_clara import REFERENCE_BASES, REFERENCE_COMPRESSION_RATES, ClaraConfig
from conftest import text_config
from transformers import AutoConfig, LlamaConfig, MistralConfig, Phi3Config

PRESET_TEXT = {"clara-mistral-7b": MistralConfig, "clara-phi4-mini": Phi3Config}


def test_defaults_are_the_papers():
    config = ClaraConfig()
    assert (config.doc_max_length, config.compression_rate, config.num_memory_tokens) == (256, 16, 16)
    assert (config.retrieval_top_k, config.retrieval_temperature) == (5, 0.02)
    assert (config.lora_r, config.lora_alpha, config.lora_target_modules) == (16, 32, "all-linear")
    assert config.retrieval_estimator == "straight_through" and config.pooling == "memory_tokens"


@pytest.mark.parametrize(("rate", "tokens"), [(4, 64), (16, 16), (32, 8), (64, 4), (128, 2), (256, 1)])
def test_memory_tokens_are_length_over_rate(rate, tokens):
    assert ClaraConfig(compression_rate=rate).num_memory_tokens == tokens


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"compression_rate": 0}, "`compression_rate` must be at least 1, got 0"),
        ({"compression_rate": 48}, "`compression_rate` must divide `doc_max_length`, got 48 and 256"),
        ({"doc_max_length": -1}, "`doc_max_length` must be at least 1, got -1"),
        ({"question_max_length": 0}, "`question_max_length`"),
        ({"prompt_max_length": 0}, "`prompt_max_length`"),
        ({"retrieval_top_k": 0}, "`retrieval_top_k`"),
        ({"lora_r": 0}, "`lora_r`"),
        ({"lora_alpha": 0}, "`lora_alpha`"),
        ({"retrieval_temperature": 0.0}, "`retrieval_temperature` must be above 0, got 0.0"),
        ({"retrieval_temperature": float("nan")}, "`retrieval_temperature` must be above 0, got nan"),
        ({"lora_dropout": 1.0}, "`lora_dropout`"),
        ({"retrieval_estimator": "reinforce"}, "`retrieval_estimator` must be one of"),
        ({"pooling": "max"}, "`pooling` must be one of"),
        ({"connector": "mlp"}, "`connector` must be one of"),
        ({"encoder_length": 0}, "`encoder_length`"),
        ({"long_texts": "drop"}, "`long_texts` must be one of"),
        ({"encoder_positions": "rows"}, "`encoder_positions` must be one of"),
        ({"prompt_style": "chatty"}, "`prompt_style` must be one of"),
        ({"memory_order": "random"}, "`memory_order` must be one of"),
        ({"reading": "both"}, "`reading` must be one of"),
    ],
)
def test_out_of_range_names_field_and_value(fields, told):
    with pytest.raises(ValueError, match=told):
        ClaraConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"compression_rate": "16"},
        {"doc_max_length": 256.0},
        {"retrieval_top_k": True},
        {"prompt_max_length": "long"},
        {"retrieval_temperature": "0.02"},
        {"lora_dropout": None},
        {"encoder_length": 64.0},
        {"text_prefix": 1},
        {"memory_marks": ["a"]},
        {"strip_answers": "no"},
    ],
)
def test_a_number_of_another_type_is_refused(fields):
    with pytest.raises(TypeError, match=f"`{next(iter(fields))}` must be "):
        ClaraConfig(**fields)


@pytest.mark.parametrize(
    "field", ["compress_rate", "compr_rate", "top_k", "temperature", "num_beams", "decoder", "generator"]
)
def test_unknown_fields_are_refused(field):
    with pytest.raises(TypeError, match=rf"no field \['{field}'\].*compression_rate"):
        ClaraConfig(**{field: 8})


def test_round_trip_keeps_every_field(tmp_path):
    config = ClaraConfig(
        text_config=text_config("qwen3"),
        compression_rate=32,
        retrieval_top_k=3,
        connector="rms",
        pooling="mean",
    )
    config.save_pretrained(tmp_path)
    again = ClaraConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.text_config.model_type == "qwen3" and again.text_config.hidden_size == 32
    assert again.get_text_config().hidden_size == 32
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["auto_map"]["AutoConfig"] == "configuration_clara.ClaraConfig"
    assert not {"top_k", "temperature", "decoder", "generator"} & saved.keys()


def test_loading_checks_overrides_like_the_constructor(tmp_path):
    ClaraConfig(text_config=text_config("llama")).save_pretrained(tmp_path)
    assert ClaraConfig.from_pretrained(tmp_path, retrieval_top_k=2).retrieval_top_k == 2
    with pytest.raises(ValueError, match="`retrieval_top_k` must be at least 1, got 0"):
        ClaraConfig.from_pretrained(tmp_path, retrieval_top_k=0)
    _, unused = ClaraConfig.from_pretrained(tmp_path, compress_rate=8, return_unused_kwargs=True)
    assert unused == {"compress_rate": 8}


def test_an_unknown_field_in_a_file_is_refused(tmp_path):
    ClaraConfig(text_config=text_config("llama")).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**saved, "compr_rate": 8}))
    with pytest.raises(TypeError, match="compr_rate"):
        ClaraConfig.from_pretrained(tmp_path)


def test_prompt_limit_is_the_bases_unless_set():
    base = LlamaConfig(max_position_embeddings=777)
    assert ClaraConfig(text_config=base).prompt_limit == 777
    assert ClaraConfig(text_config=base, prompt_max_length=99).prompt_limit == 99


@pytest.mark.parametrize("rate", REFERENCE_COMPRESSION_RATES)
@pytest.mark.parametrize("name", sorted(REFERENCE_BASES))
def test_presets_at_every_rate(name, rate):
    config = ClaraConfig.from_preset(name, rate, text_config=PRESET_TEXT[name]())
    assert config.base_model_name_or_path == REFERENCE_BASES[name]
    assert config.num_memory_tokens == 256 // rate
    assert config.text_config.model_type == PRESET_TEXT[name].model_type


def test_preset_without_a_network_reads_the_bases_configuration(monkeypatch):
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda base: MistralConfig(hidden_size=64))
    config = ClaraConfig.from_preset("clara-mistral-7b", 4, retrieval_top_k=20)
    assert (config.text_config.hidden_size, config.num_memory_tokens, config.retrieval_top_k) == (64, 64, 20)


def test_presets_refuse_other_names_and_rates():
    with pytest.raises(ValueError, match="`name` must be one of .*clara-mistral-7b.*got 'gpt-5'"):
        ClaraConfig.from_preset("gpt-5")
    with pytest.raises(ValueError, match="`compression_rate` must be one of .*got 8"):
        ClaraConfig.from_preset("clara-mistral-7b", 8, text_config=MistralConfig())


@pytest.mark.parametrize("value", [2, -1.5, "0.3", True])
def test_the_least_score_is_a_cosine(value):
    with pytest.raises(ValueError, match="`retrieval_min_score` must be a cosine from -1 to 1"):
        ClaraConfig(text_config={"model_type": "llama"}, retrieval_min_score=value)


@pytest.mark.parametrize("name", ["reading_min_score", "reading_joint"])
@pytest.mark.parametrize("value", ["6", True])
def test_what_weighs_readings_is_a_number(name, value):
    with pytest.raises(TypeError, match=f"`{name}` must be a number, or None"):
        ClaraConfig(text_config={"model_type": "llama"}, **{name: value})
