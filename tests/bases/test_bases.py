"""Any decoder-only base: tiny models of many architectures, tied or not, float32, bfloat16, quantised."""

import json
from collections import Counter
from itertools import product

import pytest
import torch
from clara.adapters_clara import adapter_parameters, wearing
from clara.configuration_clara import ADAPTERS
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.processing_clara import IGNORE_INDEX
from clara.train.stages import STAGES
from conftest import DOCUMENTS, QUESTIONS, SMALL, make_tokenizer, save_base, slots_of, stir
from training_helpers import make_trainer
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BitsAndBytesConfig, MixtralConfig

Model = ClaraForRetrievalGeneration
FIELDS = {"doc_max_length": 64, "lora_r": 4, "lora_alpha": 8}
FULL = {"max_new_tokens": 3, "min_new_tokens": 3, "return_dict_in_generate": True, "output_logits": True}
KINDS = ("llama", "mistral", "phi3", "qwen3", "gemma3")
DTYPES = (torch.float32, torch.bfloat16)
FAST = [
    ("llama", False, torch.float32),
    ("mistral", True, torch.bfloat16),
    ("phi3", False, torch.bfloat16),
    ("qwen3", True, torch.float32),
    ("gemma3", True, torch.float32),
]
SLOW = [case for case in product(KINDS, (False, True), DTYPES) if case not in FAST]
CASES = [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)]
ANSWERS = ["It rises in the Alps, and reaches the sea", "1890", "In Leipzig"]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(str(part) for part in case))
def case(request, tmp_path_factory):
    """A base of one architecture, and its untrained and trained model."""
    kind, tied, dtype = request.param
    base = save_base(tmp_path_factory.mktemp("base"), kind, tied, dtype)
    return base, dtype, stir(Model.from_base(base, **FIELDS))


def generated(model, memory, questions=QUESTIONS):
    out = model.generate(questions, memory, 2, **FULL)
    return out, torch.stack(out.generation.logits, dim=1)


@torch.no_grad()
def test_outside_wearing_the_model_is_its_plain_base(case):
    base, dtype, model = case
    plain = AutoModelForCausalLM.from_pretrained(base)
    ids = model.processor.encode_documents(DOCUMENTS[:2])["input_ids"]
    assert model.dtype == plain.dtype == dtype
    expected = plain(ids).logits
    assert torch.equal(model(ids).logits, expected) and torch.equal(model.decoder(ids).logits, expected)
    with wearing(model.decoder, "generator"):
        assert not torch.equal(model.decoder(ids).logits, expected)
    assert torch.equal(model(ids).logits, expected)


@torch.no_grad()
def test_fresh_adapters_change_nothing(case):
    base, _, _ = case
    fresh, plain = Model.from_base(base, **FIELDS), AutoModelForCausalLM.from_pretrained(base)
    ids = fresh.processor.encode_documents(DOCUMENTS[:1])["input_ids"]
    for name in ADAPTERS:
        with wearing(fresh.decoder, name):
            assert torch.equal(fresh.decoder(ids).logits, plain(ids).logits)


def test_every_linear_layer_but_the_head_is_adapted(case):
    _, _, model = case
    linear = {
        name.removesuffix(".base_layer")
        for name, module in model.decoder.named_modules()
        if type(module) is torch.nn.Linear and ".lora_" not in name
    }
    adapted = {name.split(".lora_A")[0] for name, _ in model.decoder.named_parameters() if ".lora_A" in name}
    assert adapted == {name for name in linear if "lm_head" not in name}
    assert {parameter.shape[0] for name, parameter in model.named_parameters() if ".lora_A" in name} == {4}


def test_the_base_is_frozen_everywhere(case, tmp_path):
    _, _, model = case
    model.save_pretrained(tmp_path)
    for made in (model, Model.from_pretrained(tmp_path, is_trainable=True)):
        adapters = {id(parameter) for parameter in adapter_parameters(made.decoder)}
        frozen = [parameter for parameter in made.decoder.parameters() if id(parameter) not in adapters]
        assert frozen and not any(parameter.requires_grad for parameter in frozen)
        assert all(parameter.requires_grad for parameter in adapter_parameters(made.decoder))


def test_save_and_load_give_the_same_answers(case, tmp_path):
    base, dtype, model = case
    memory = model.build_memory(DOCUMENTS, show_progress=False)
    expected, logits = generated(model, memory)
    ways = {"full": {}, "shards": {"max_shard_size": "30KB"}, "bare": {"save_base": False}}
    for name, arguments in ways.items():
        model.save_pretrained(tmp_path / name, **arguments)
        again = AutoModel.from_pretrained(tmp_path / name, trust_remote_code=True)
        out, found = generated(again, memory)
        assert again.dtype == dtype and not again.training
        assert torch.equal(found, logits) and out.answers == expected.answers
        assert out.document_ids == expected.document_ids


@torch.no_grad()
def test_plain_transformers_loads_the_root_as_the_base(case, tmp_path):
    base, _, model = case
    model.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(base)
    loaded, info = type(plain).from_pretrained(
        tmp_path, config=AutoConfig.from_pretrained(base), output_loading_info=True
    )
    assert not info["missing_keys"] and info["unexpected_keys"] == {"memory_tokens"}
    ids = torch.arange(3, 20).view(1, -1)
    assert torch.equal(loaded(ids).logits, plain(ids).logits)


def check_labelled_logits(model):
    """The labelled tokens' logits and loss are those of the full pass, for answers of unlike lengths."""
    memory = model.build_memory(DOCUMENTS, show_progress=False).gather([0, 1, 2])
    memory = torch.stack(memory)
    batch = model.processor.encode_prompts(
        ["q", QUESTIONS[0], QUESTIONS[1]], slots_of(range(3), 1, memory.shape[1]), ANSWERS
    )
    keep = batch["labels"][:, 1:] != IGNORE_INDEX
    full = model(memory=memory, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    out = model(memory=memory, **batch)
    torch.testing.assert_close(out.logits, full[:, :-1][keep], atol=1e-5, rtol=0)
    expected = torch.nn.functional.cross_entropy(full[:, :-1][keep], batch["labels"][:, 1:][keep])
    torch.testing.assert_close(out.loss, expected, atol=1e-5, rtol=0)
    return full


@pytest.mark.parametrize("kind", ["gemma3", "granite", "phi3"])
@torch.no_grad()
def test_labelled_logits_pass_through_the_bases_own_head(tmp_path, kind):
    """Gemma-3 caps its logits softly (at 5 here), Granite divides them (by 3 here)."""
    model = stir(Model.from_base(save_base(tmp_path, kind), **FIELDS))
    full = check_labelled_logits(model)
    if kind != "phi3":
        name, off = {"gemma3": ("final_logit_softcapping", None), "granite": ("logits_scaling", 1.0)}[kind]
        assert getattr(model.decoder.config, name) not in (off, None)
        setattr(model.decoder.config, name, off)
        assert (check_labelled_logits(model) - full).abs().max() > 0.01


@torch.no_grad()
def test_padding_and_company_change_nothing(case):
    _, dtype, model = case
    if dtype != torch.float32:
        pytest.skip("rounding differs between shapes in bfloat16")
    memory = model.build_memory(DOCUMENTS, show_progress=False)
    alone = model.build_memory(DOCUMENTS[4:5], show_progress=False)
    torch.testing.assert_close(memory.gather([4])[0], alone.values, atol=1e-5, rtol=0)
    _, together = generated(model, memory, [QUESTIONS[0], "Why?"])
    _, single = generated(model, memory, ["Why?"])
    torch.testing.assert_close(together[1], single[0], atol=1e-5, rtol=0)


# Other architectures

OTHERS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 2, "n_head": 4},
    "gpt_neox": {},
    "falcon": {},
    "gemma2": {"head_dim": 8},
    "mixtral": {"num_local_experts": 2},
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=() if k in ("gpt2", "mixtral") else pytest.mark.slow) for k in OTHERS],
)
@torch.no_grad()
def test_other_architectures(tmp_path, kind):
    """Learned positions (GPT-2, OPT), Conv1D layers (GPT-2), ALiBi (BLOOM), fused experts (Mixtral)."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SMALL, **OTHERS[kind]})
    made = AutoModelForCausalLM.from_config(config)
    for parameter in made.parameters():
        parameter.mul_(5.0 if parameter.dim() > 1 else 1.0)
    made.save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    model = stir(Model.from_base(str(tmp_path / "base"), **FIELDS))
    assert model.config.lora_dropout == (0.0 if kind == "mixtral" else 0.1)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    ids = torch.arange(3, 20).view(1, -1)
    assert torch.equal(model(ids).logits, plain(ids).logits)
    test_padding_and_company_change_nothing((None, torch.float32, model))
    check_labelled_logits(model)
    test_save_and_load_give_the_same_answers((None, torch.float32, model), tmp_path)
    if kind == "mixtral":
        with pytest.raises(ValueError, match="`lora_dropout` must be 0 .* give lora_dropout=0"):
            Model.from_base(str(tmp_path / "base"), lora_dropout=0.1, **FIELDS)


# Quantised bases


def quantised(bits, **kwargs):
    pytest.importorskip("bitsandbytes")
    return {"quantization_config": BitsAndBytesConfig(**{f"load_in_{bits}bit": True}), **kwargs}


def kinds_of_parameters(model):
    return Counter((type(p).__name__, ".lora_" in name, p.dtype) for name, p in model.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_adapters_on_a_quantised_base_stay_in_full_precision(checkpoint, base, bits, dtype):
    made = [
        Model.from_base(base, **FIELDS, **quantised(bits, dtype=dtype)),
        Model.from_pretrained(checkpoint, **quantised(bits, dtype=dtype)),
        AutoModel.from_pretrained(checkpoint, trust_remote_code=True, **quantised(bits, dtype=dtype)),
    ]
    packed = {8: ("Int8Params", False, torch.int8), 4: ("Params4bit", False, torch.uint8)}[bits]
    for model in made:
        kinds = kinds_of_parameters(model)
        assert kinds[packed] == 14
        assert {kind for kind in kinds if kind[1]} == {("Parameter", True, torch.float32)}
        layer = type(model.decoder.model.layers[0].mlp.up_proj)
        wrapper = {8: "Linear8bitLt", 4: "Linear4bit"}[bits]
        assert (layer.__module__, layer.__name__) == ("peft.tuners.lora.bnb", wrapper)
        assert not any(p.requires_grad for n, p in model.decoder.named_parameters() if ".lora_" not in n)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_8_bit_base_answers_saves_and_loads(checkpoint, shared_model, tmp_path):
    model = Model.from_pretrained(checkpoint, **quantised(8))
    memory = model.build_memory(DOCUMENTS, show_progress=False)
    exact = shared_model.build_memory(DOCUMENTS, show_progress=False)
    cosine = torch.nn.functional.cosine_similarity(memory.values, exact.values)
    assert cosine.min() > 0.98
    with pytest.raises(ValueError, match="another compressor or base"):
        shared_model.retrieve(QUESTIONS, memory)
    expected, logits = generated(model, memory)
    with pytest.raises(ValueError, match="would write a quantised base"):
        model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, save_base=False)
    again, found = generated(Model.from_pretrained(tmp_path, **quantised(8)), memory)
    assert torch.equal(found, logits) and again.answers == expected.answers
    plain = Model.from_pretrained(tmp_path)
    assert kinds_of_parameters(plain).keys() <= {("Parameter", lora, torch.float32) for lora in (True, False)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_base_stored_in_8_bit(base, tmp_path):
    stored = AutoModelForCausalLM.from_pretrained(base, **quantised(8))
    stored.save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    model = stir(Model.from_base(str(tmp_path / "base"), **FIELDS))
    assert kinds_of_parameters(model)["Int8Params", False, torch.int8] == 14
    memory = model.build_memory(DOCUMENTS, show_progress=False)
    _, logits = generated(model, memory)
    model.save_pretrained(tmp_path / "model", save_base=False)
    _, found = generated(Model.from_pretrained(tmp_path / "model"), memory)
    assert torch.equal(found, logits)


@pytest.fixture(scope="module")
def experts_base(tmp_path_factory):
    """A tiny Mixtral, whose expert weights are not linear layers."""
    folder = tmp_path_factory.mktemp("experts")
    config = MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("stage", STAGES)
def test_a_base_of_experts_trains_at_default_settings(experts_base, tmp_path, stage):
    model = Model.from_base(experts_base, **FIELDS)
    assert model.config.lora_dropout == 0.0
    trainer = make_trainer(model, tmp_path / "run", stage, max_steps=1)
    trainer.train()
    model.save_pretrained(tmp_path / "saved")
    loaded = Model.from_pretrained(tmp_path / "saved")
    memory = loaded.build_memory(DOCUMENTS, show_progress=False)
    assert loaded.generate(QUESTIONS[:1], memory, max_new_tokens=2)
    with pytest.raises(ValueError, match="`lora_dropout` must be 0 for a base whose experts .*got 0.1"):
        Model.from_base(experts_base, lora_dropout=0.1, **FIELDS)


def test_a_tokenizer_without_an_end_token_is_named_at_once(tmp_path):
    base = save_base(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token": None}))
    with pytest.raises(ValueError, match=r"has no end-of-text token, without which no answer ends"):
        Model.from_base(base, **FIELDS)
