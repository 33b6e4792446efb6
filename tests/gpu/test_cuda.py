"""On a CUDA device: the CPU's numbers, half precision, kinds of attention, 4 bits, one step of training.

Needs torch, transformers, peft, accelerate, safetensors and pytest; without CUDA every test is skipped:
    python -m pytest -m gpu tests/gpu
"""

import importlib.util

import pytest
import torch
from clara.modeling_clara import ClaraForRetrievalGeneration
from conftest import DOCUMENTS, QUESTIONS, SMALL, make_model, make_tokenizer, save_base, stir

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
STAGES = ("pretraining", "instruction_tuning", "end_to_end")


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory):
    """A base whose layers are wide enough for kernels in 4 bits and for flash attention."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**{**SMALL, **sizes})).to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def same_everywhere(base, **kwargs):
    found = []
    for device in ("cpu", "cuda"):
        model = make_model(base, **kwargs).to(device)
        memory = model.build_memory(DOCUMENTS, show_progress=False)
        out = model.generate(QUESTIONS, memory, max_new_tokens=8, return_dict_in_generate=True)
        found.append((model, memory, out))
    return found


@pytest.mark.parametrize("pooling", ["memory_tokens", "mean"])
def test_cuda_equals_cpu(base, pooling):
    (cpu, slow, expected), (cuda, quick, out) = same_everywhere(base, pooling=pooling)
    assert cuda.device.type == "cuda" and cuda.memory_fingerprint() == cpu.memory_fingerprint()
    torch.testing.assert_close(quick[:], slow[:], atol=1e-4, rtol=1e-3)
    assert out.document_ids == expected.document_ids and out.answers == expected.answers
    torch.testing.assert_close(out.scores.cpu(), expected.scores.cpu(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flash_attention_2"])
def test_bfloat16_and_kinds_of_attention(wide_base, attention):
    if attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        pytest.skip("flash_attn is not installed")
    options = {"doc_max_length": 64, "lora_r": 4, "dtype": torch.bfloat16}
    eager = stir(ClaraForRetrievalGeneration.from_base(wide_base, attn_implementation="eager", **options))
    other = stir(ClaraForRetrievalGeneration.from_base(wide_base, attn_implementation=attention, **options))
    memories = [m.to("cuda").build_memory(DOCUMENTS, show_progress=False)[:].float() for m in (eager, other)]
    cosine = torch.nn.functional.cosine_similarity(memories[0].flatten(1), memories[1].flatten(1))
    assert cosine.min() > 0.99 and other.dtype == torch.bfloat16
    assert other.generate(QUESTIONS, DOCUMENTS, max_new_tokens=4)


def step(model, folder, stage, **fields):
    from training_helpers import make_trainer

    fields = {"max_steps": 1, "use_cpu": False, "bf16": model.dtype == torch.bfloat16, **fields}
    trainer = make_trainer(model, folder, stage, **fields)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    trainer.train()
    after = dict(model.named_parameters())
    assert all(after[name].device.type == "cuda" for name in before)
    return trainer, [name for name in before if not torch.equal(before[name].to(after[name]), after[name])]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_training(wide_base, tmp_path, stage, dtype):
    model = make_model(wide_base, lora_dropout=0.0).to(dtype)
    trainer, moved = step(model, tmp_path, stage, activation_checkpointing=True)
    assert moved and trainer.state.log_history[0]["loss"] > 0
    assert trainer.state.log_history[0]["tokens_per_second"] > 0


@pytest.mark.parametrize("stage", STAGES)
def test_a_base_in_4_bits_trains_and_answers(wide_base, tmp_path, stage):
    pytest.importorskip("bitsandbytes")
    from clara.train.resolving import cast_adapters
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    options = {"dtype": torch.bfloat16, "device_map": {"": 0}, "quantization_config": config}
    fields = {"doc_max_length": 64, "lora_r": 4, "lora_alpha": 8}
    model = stir(ClaraForRetrievalGeneration.from_base(wide_base, **fields, **options))
    cast_adapters(model, torch.bfloat16)
    trainer, moved = step(model, tmp_path, stage)
    assert moved
    trainer.save_final(str(tmp_path / "final"))
    loaded = ClaraForRetrievalGeneration.from_pretrained(tmp_path / "final", **options)
    assert loaded.generate(QUESTIONS, DOCUMENTS, max_new_tokens=4)


def test_a_base_of_another_device_map_answers(tmp_path):
    base = save_base(tmp_path)
    model = ClaraForRetrievalGeneration.from_base(base, doc_max_length=64, lora_r=4, device_map="auto")
    assert model.device.type == "cuda"
    assert model.generate(QUESTIONS[0], DOCUMENTS, max_new_tokens=2) is not None
