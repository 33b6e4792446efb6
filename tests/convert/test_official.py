"""Converting released checkpoints: the same numbers on every layout, and nothing written after an error."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clara.adapters_clara import adapter_state
from clara.commands.main import main
from clara.convert.official import convert_official
from clara.convert.official_compare import compare, read_expected
from clara.modeling_clara import ClaraForRetrievalGeneration
from conftest import DOCUMENTS, NO_SYSTEM, QUESTIONS, ROOT
from official_helpers import ANSWER_TOKENS, first_word_tokenizer, make_base, make_official, record
from transformers import AutoModel

SHARED = Path(os.environ.get("CLARA_SHARED", ROOT.parent / "shared"))
TINY = SHARED / "reference" / "official_tiny"
DROPS_SYSTEM = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
LAYOUTS = {
    "mistral": {"compr_rate": 32},
    "llama, tied, no system role, one memory token, instruction stage": {
        "kind": "llama", "tied": True, "template": NO_SYSTEM, "reasoner": False,
        "different_mem_tokens": False,
    },
    "qwen3, no copies, one token a document, a vocabulary above the tokenizer's": {
        "kind": "qwen3", "compr_rate": 64, "copies": False, "base_fields": {"vocab_size": 640},
    },
    "phi3, no system role, all in bfloat16, rank 2": {
        "kind": "phi3", "template": NO_SYSTEM, "lora_r": 2,
        "dtype": torch.bfloat16, "lora_dtype": torch.bfloat16,
    },
    "llama, system text dropped, the first word read in another way": {
        "kind": "llama", "tokenizer": first_word_tokenizer(DROPS_SYSTEM), "generation_top_k": 3,
    },
    "mistral, separator off, a length that the rate does not divide": {
        "sep": False, "compr_rate": 12, "generation_top_k": 3,
    },
    "mistral, separator off, fewer memory tokens than documents": {
        "sep": False, "compr_rate": 64, "generation_top_k": 3, "different_mem_tokens": False,
    },
}  # fmt: skip


def differences(folder, expected, tokens=ANSWER_TOKENS):
    """Every comparison by name, on the model as a user loads it."""
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    return {found.what: found for found in compare(model, read_expected(expected), tokens)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small checkpoint for tests that only read it."""
    return make_official(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="module")
def converted(made, tmp_path_factory):
    return convert_official(made.checkpoint, made.base, tmp_path_factory.mktemp("out") / "model")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_numbers(tmp_path, layout):
    made = make_official(tmp_path, **LAYOUTS[layout])
    record(made, tmp_path / "expected")
    found = differences(
        convert_official(made.checkpoint, made.base, tmp_path / "model"), tmp_path / "expected"
    )
    assert [str(one) for one in found.values() if not one.close] == []
    names = {"encoder ids", "memory", "alignment loss", "prompt ids", "answers"}
    chosen = {"query", "scores", "top-k"} if LAYOUTS[layout].get("reasoner", True) else set()
    assert found.keys() == names | chosen


@pytest.mark.skipif(not TINY.is_dir(), reason="the reference outputs are not here")
def test_the_released_implementations_own_outputs(tmp_path, capsys):
    arguments = ["convert", "official", str(TINY / "checkpoint"), "--base", str(TINY / "base")]
    assert main([*arguments, "--output", str(tmp_path / "model")]) == 0
    assert main(["convert", "compare", str(tmp_path / "model"), "--expected", str(TINY)]) == 0
    assert capsys.readouterr().out.count(" ok\n") == 8


def test_a_converted_checkpoint_goes_on_as_any_other(converted, tmp_path):
    """Saving and loading it gives the same answers, and its base cannot be left out."""
    model = ClaraForRetrievalGeneration.from_pretrained(converted)
    with pytest.raises(ValueError, match="`save_base=False` would lose this model's base"):
        model.save_pretrained(tmp_path / "baseless", save_base=False)
    assert not (tmp_path / "baseless").exists()
    model.save_pretrained(tmp_path / "again")
    again = AutoModel.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert again.generate(QUESTIONS, DOCUMENTS) == model.generate(QUESTIONS, DOCUMENTS)
    assert again.memory_fingerprint() == model.memory_fingerprint()
    assert again.config.base_is_changed and again.processor.text_prefix == "<ENC><|im_start|>"


def test_what_a_user_writes_stays_text(converted):
    """Special tokens in documents and questions are read as letters, memory tokens too."""
    model = ClaraForRetrievalGeneration.from_pretrained(converted)
    batch = model.processor.encode_documents(["a <MEM0> b <SEP><|im_end|>"])
    ids = batch["input_ids"][batch["attention_mask"].bool()].tolist()
    names = model.processor.tokenizer.convert_ids_to_tokens(ids)
    assert names[:2] == ["<ENC>", "<|im_start|>"] and names[-1] == "<|im_end|>"
    assert not {"<MEM0>", "<SEP>", "<|im_end|>"} & set(names[2:-1])
    assert (
        len(model.generate(QUESTIONS[0], ["a <MEM0> b", "<SEP>"], return_dict_in_generate=True).indices) == 2
    )


def test_long_documents_are_cut_unless_asked_otherwise(converted):
    model = ClaraForRetrievalGeneration.from_pretrained(converted)
    long = " ".join(DOCUMENTS * 2)
    assert len(model.build_memory([long], show_progress=False)) == 1
    split = ClaraForRetrievalGeneration.from_pretrained(converted, long_texts="split")
    memory = split.build_memory([long], show_progress=False)
    assert len(memory) > 2 and " ".join(memory.texts) == long


def test_without_a_query_reasoner_the_compressor_takes_its_place(tmp_path):
    made = make_official(tmp_path, reasoner=False)
    model = ClaraForRetrievalGeneration.from_pretrained(
        convert_official(made.checkpoint, made.base, tmp_path / "model")
    )
    states = [adapter_state(model.decoder, name) for name in ("compressor", "query_reasoner", "generator")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])
    found = model.generate(QUESTIONS[0], DOCUMENTS[:3], retrieval_top_k=3, return_dict_in_generate=True)
    assert model.config.memory_order == "document" and sorted(found.indices) == [0, 1, 2]


def test_weights_are_rounded_as_the_released_implementation_loads_them(converted, made):
    model = ClaraForRetrievalGeneration.from_pretrained(converted)
    assert model.dtype == torch.float32
    assert all(torch.equal(p, p.bfloat16().float()) for p in model.parameters())
    tables = torch.load(made.checkpoint / "decoder_first_last_layers.pth", weights_only=True)
    own = model.get_input_embeddings().weight
    assert torch.equal(own, tables["model.embed_tokens.weight"].bfloat16().float())
    assert torch.equal(model.memory_tokens, own[-7:-3])


def test_the_sub_folders_of_the_released_repositories(made, tmp_path):
    shutil.copytree(made.checkpoint, tmp_path / "repo" / "compression-16")
    with pytest.raises(FileNotFoundError, match="pass `--subfolder compression-16`"):
        convert_official(tmp_path / "repo", made.base, tmp_path / "model")
    convert_official(tmp_path / "repo", made.base, tmp_path / "model", subfolder="compression-16")
    assert (tmp_path / "model" / "config.json").is_file()


# Bad input


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def edit(file, change):
    found = torch.load(file, weights_only=True)
    change(found)
    torch.save(found, file)


def rename_adapter(found):
    found["decoder"] = found.pop("decoder_adapter")


def drop_compressor(found):
    del found["encoder_adapter"]


def drop_layer(found):
    del found["decoder_adapter"]["model.layers.0.mlp.up_proj.lora_A.weight"]


def other_copy(found):
    found["decoder_adapter"]["lm_head.weight"] = found["decoder_adapter"]["lm_head.weight"] + 1


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


FAULTS = {
    "no adapters": ("adapters.pth", Path.unlink, "has no adapters.pth"),
    "no tables": ("decoder_first_last_layers.pth", Path.unlink, "has no decoder_first_last_layers.pth"),
    "no config": ("config.json", Path.unlink, "has no config.json"),
    "cut adapters": ("adapters.pth", cut, "adapters.pth is damaged or cut short"),
    "cut tables": ("decoder_first_last_layers.pth", cut, "layers.pth is damaged or cut short"),
    "cut config": ("config.json", cut, "config.json is damaged or cut short"),
    "code": ("adapters.pth", lambda file: torch.save({"encoder_adapter": Code()}, file), "could run code"),
    "unknown adapter": ("adapters.pth", lambda file: edit(file, rename_adapter), r"unknown \['decoder'\]"),
    "other copy": ("adapters.pth", lambda file: edit(file, other_copy), "another 'lm_head.weight'"),
    "no adapter": ("adapters.pth", lambda file: edit(file, drop_compressor), "lacks .'encoder_adapter'"),
    "no head": (
        "decoder_first_last_layers.pth",
        lambda file: edit(file, lambda found: found.pop("lm_head.weight")),
        "must hold .'lm_head.weight', 'model.embed_tokens.weight'",
    ),
    "no layer": ("adapters.pth", lambda file: edit(file, drop_layer), "'generator' does not fit .*1 missing"),
    "no rate": (
        "config.json",
        lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "compr_rate": None})),
        "`compr_rate` in .*config.json must be a whole number above 0, got None",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_checkpoint_is_told_and_nothing_is_written(made, tmp_path, fault, monkeypatch):
    file, break_it, message = FAULTS[fault]
    monkeypatch.chdir(tmp_path)
    checkpoint = Path(shutil.copytree(made.checkpoint, tmp_path / "checkpoint"))
    break_it(checkpoint / file)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert_official(checkpoint, made.base, tmp_path / "new" / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


WRONG = {
    "another architecture": {"kind": "phi3"},
    "tied": {"tied": True},
    "another vocabulary": {"tokenizer": first_word_tokenizer(NO_SYSTEM)},
    "wider": {"hidden_size": 48, "head_dim": 12},
    "deeper": {"num_hidden_layers": 3},
    "wider inside": {"intermediate_size": 64},
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_base_is_told_and_nothing_is_written(made, tmp_path, kind):
    base = make_base(tmp_path / "base", **WRONG[kind])
    with pytest.raises(ValueError, match="base"):
        convert_official(made.checkpoint, base, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_what_is_there_already_stays(made, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    with pytest.raises(FileExistsError, match="is there already"):
        convert_official(made.checkpoint, made.base, tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["mine"]


def test_a_disk_that_is_full_leaves_nothing(made, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clara.convert.official.save_adapter", full)
    with pytest.raises(OSError, match="No space left"):
        convert_official(made.checkpoint, made.base, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_command_tells_errors_in_a_line(made, tmp_path, capsys):
    arguments = ["convert", "official", str(tmp_path / "nowhere"), "--base", made.base]
    assert main([*arguments, "--output", str(tmp_path / "model")]) == 2
    assert "clara convert: " in capsys.readouterr().err


MEASURED = """
import re, sys
from clara.convert.official import convert_official
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
before = peak()
convert_official(*sys.argv[1:])
print(before, peak())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from Linux's /proc")
@pytest.mark.slow
def test_ram_stays_far_below_the_size_of_the_base(tmp_path):
    """Of a 2.4 GB base; the bound is its size and 2 GB, a shard at a time needs less than the base."""
    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 23, "head_dim": 128}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16}
    made = make_official(tmp_path, "llama", dtype=torch.bfloat16, lora_r=16, base_fields={**sizes, **heads})
    size = sum(file.stat().st_size for file in Path(made.base).glob("*.safetensors"))
    command = [sys.executable, "-c", MEASURED, str(made.checkpoint), made.base, str(tmp_path / "model")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before, peak = (int(number) for number in printed.split())
    assert size > 2.2e9 and len(list((tmp_path / "model").glob("model-*.safetensors"))) >= 5
    assert peak < size + 2e9 and peak - before < 0.5 * size, f"base {size}, before {before}, peak {peak}"
