"""Tiny models and a tokenizer, made in memory; no network, no pretrained weights."""

import os
import tempfile
from pathlib import Path

import pytest
import torch

_modules = tempfile.TemporaryDirectory(prefix="clara-modules-")
os.environ.setdefault("HF_MODULES_CACHE", _modules.name)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other

ROOT = Path(__file__).resolve().parents[1]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endfor %}"
)
DOCUMENTS = [
    "The Forth Bridge is a railway bridge in Scotland. It was opened in 1890.",
    "Clara Schumann was a pianist and composer. She was born in Leipzig in 1819.",
    "Titan is the largest moon of Saturn. It was found by Christiaan Huygens in 1655.",
    "Basalt is a dark volcanic rock. It cools quickly from lava rich in iron.",
    "The Rhine rises in the Alps and reaches the sea near Rotterdam.",
    "Ada Lovelace wrote notes on the analytical engine in 1843.",
]
QUESTIONS = ["When was the Forth Bridge opened?", "Who found Titan?", "Where was Clara Schumann born?"]
SMALL = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def make_tokenizer(template=CHATML, bos=False):
    """A byte-level BPE tokenizer of 512 entries with chat markers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(DOCUMENTS * 3 + QUESTIONS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            "<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        chat_template=template,
        padding_side="left",
    )


def text_config(kind, tied=False):
    """A two-layer configuration of one architecture."""
    import transformers

    extra = {"tie_word_embeddings": tied}
    if kind == "gemma3":
        extra.update(head_dim=8, sliding_window=64, query_pre_attn_scalar=8, final_logit_softcapping=5.0)
        return transformers.Gemma3TextConfig(**SMALL, **extra)
    if kind == "qwen3":
        extra["head_dim"] = 8
    if kind == "granite":
        extra["logits_scaling"] = 3.0
    names = {"llama": "Llama", "mistral": "Mistral", "phi3": "Phi3", "qwen3": "Qwen3", "granite": "Granite"}
    return getattr(transformers, f"{names[kind]}Config")(**SMALL, **extra)


def save_base(folder, kind="llama", tied=False, dtype=torch.float32, tokenizer=None, seed=0):
    """Writes a random causal LM with its tokenizer; its outputs are far from uniform."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(text_config(kind, tied), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(5.0)
    model.to(dtype).save_pretrained(folder)
    (tokenizer or make_tokenizer()).save_pretrained(folder)
    return str(folder)


def make_model(base, **kwargs):
    """A model over a saved base whose adapters really change it (B is not 0)."""
    from clara.modeling_clara import ClaraForRetrievalGeneration

    fields = {"doc_max_length": 64, "compression_rate": 16, "lora_r": 4, "lora_alpha": 8, **kwargs}
    model = ClaraForRetrievalGeneration.from_base(base, **fields)
    stir(model)
    return model


def slots_of(questions, k, size=4):
    """Slots of prompts with k documents of equally many memory vectors."""
    return [[size] * k for _ in questions]


def stir(model, scale=0.1, seed=3):
    """Gives every adapter random B matrices, each its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A tiny Llama base in float32."""
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def shared_model(base):
    """A tiny model for tests that only read it."""
    return make_model(base)


@pytest.fixture
def model(base):
    """A tiny model that a test may change."""
    return make_model(base)


@pytest.fixture(scope="session")
def checkpoint(shared_model, tmp_path_factory):
    """A saved checkpoint with its base weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    shared_model.save_pretrained(folder)
    return str(folder)
