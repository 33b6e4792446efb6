"""A checkpoint on its own: a copied folder loads as remote code, and its memories pass between the copies."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clara.adapters_clara import wearing
from clara.configuration_clara import ADAPTERS
from clara.memory_clara import CorpusMemory
from clara.modeling_clara import ClaraForRetrievalGeneration
from conftest import DOCUMENTS, QUESTIONS, ROOT, slots_of
from peft import PeftModel
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer

SETTINGS = {"max_new_tokens": 4, "min_new_tokens": 4, "return_dict_in_generate": True, "output_logits": True}
ALONE = """
import json, sys
sys.modules["clara"] = None  # the package is out of reach: the folder must do on its own
import torch
from transformers import AutoModel

folder, stored, own, questions, documents = json.load(open(sys.argv[1], encoding="utf-8"))
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
memory = model.load_memory(stored)
out = model.generate(questions, memory, retrieval_top_k=2, max_new_tokens=4, min_new_tokens=4,
                     return_dict_in_generate=True, output_logits=True)
model.build_memory(documents, show_progress=False).save_pretrained(own)
result = {"answers": out.answers, "document_ids": out.document_ids, "training": model.training,
          "logits": torch.stack(out.generation.logits, 1).sum().item(), "module": type(model).__module__}
json.dump(result, open(sys.argv[2], "w", encoding="utf-8"))
"""


@pytest.fixture(scope="module")
def copied(checkpoint, tmp_path_factory):
    """A copy of the checkpoint under another name, as a download would be."""
    return shutil.copytree(checkpoint, tmp_path_factory.mktemp("hub") / "some-model_v1.0")


@pytest.fixture(scope="module")
def remote(copied):
    return AutoModel.from_pretrained(copied, trust_remote_code=True)


@pytest.fixture(scope="module")
def memory(shared_model):
    return shared_model.build_memory(DOCUMENTS, show_progress=False)


def answers(model, memory):
    out = model.generate(QUESTIONS, memory, 2, **SETTINGS)
    return out, torch.stack(out.generation.logits, 1)


def test_a_folder_alone_answers_with_stdin_closed_and_no_package(copied, memory, shared_model, tmp_path):
    memory.save_pretrained(tmp_path / "stored")
    order = [str(copied), str(tmp_path / "stored"), str(tmp_path / "own"), QUESTIONS, DOCUMENTS]
    (tmp_path / "order.json").write_text(json.dumps(order), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "order.json"), str(tmp_path / "result.json")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    expected, logits = answers(shared_model, memory)
    assert result["answers"] == expected.answers and result["document_ids"] == expected.document_ids
    assert abs(result["logits"] - logits.sum().item()) < 1e-2
    assert result["training"] is False and result["module"].startswith("transformers_modules.")
    assert "[y/N]" not in done.stdout + done.stderr
    own = shared_model.load_memory(tmp_path / "own")
    torch.testing.assert_close(own.values, memory.values, atol=1e-5, rtol=0)


def test_remote_code_is_another_copy_that_gives_the_same(remote, shared_model, memory):
    assert (
        type(remote) is not ClaraForRetrievalGeneration
        and type(remote).__name__ == type(shared_model).__name__
    )
    (out, logits), (expected, known) = answers(remote, memory), answers(shared_model, memory)
    assert torch.equal(logits, known) and out.answers == expected.answers
    assert remote.memory_fingerprint() == shared_model.memory_fingerprint()


def test_memories_pass_between_the_copies(remote, shared_model, memory, tmp_path):
    other = remote.build_memory(DOCUMENTS, show_progress=False)
    assert type(other) is not CorpusMemory and type(other).__name__ == "CorpusMemory"
    expected, known = answers(shared_model, memory)
    for model, given in ((shared_model, other), (remote, memory)):
        out, logits = answers(model, given)
        assert out.document_ids == expected.document_ids and torch.equal(logits, known)
        assert model.retrieve(QUESTIONS, given, 2).indices == expected.indices
    other.save_pretrained(tmp_path / "other")
    assert torch.equal(shared_model.load_memory(tmp_path / "other").values, memory.values)
    memory.save_pretrained(tmp_path / "memory")
    grown = remote.load_memory(tmp_path / "memory")
    grown.append(shared_model.build_memory([{"text": "Titan", "id": "new"}], show_progress=False))
    assert len(grown) == 7


def test_every_auto_class_loads_the_folder(copied, shared_model):
    config = AutoConfig.from_pretrained(copied, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(copied, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(copied)
    assert config.num_memory_tokens == processor.num_memory_tokens == 4
    assert config.text_config.model_type == "llama"
    expected = shared_model.processor.encode_prompts(QUESTIONS, slots_of(QUESTIONS, 2))["input_ids"]
    assert torch.equal(processor.encode_prompts(QUESTIONS, slots_of(QUESTIONS, 2))["input_ids"], expected)
    assert tokenizer.decode(tokenizer("Titan")["input_ids"]) == "Titan"
    made = AutoModel.from_config(config, trust_remote_code=True)
    assert list(made.decoder.peft_config) == list(ADAPTERS)


def test_the_folder_holds_all_the_code_that_the_model_needs_and_no_more(copied):
    shipped = {file.name for file in Path(copied).glob("*.py")}
    assert "modeling_clara.py" in shipped and shipped <= {file.name for file in ROOT.glob("*_clara.py")}
    for name in shipped:
        assert (Path(copied) / name).read_bytes() == (ROOT / name).read_bytes()


def test_a_copy_of_a_copy(remote, memory, tmp_path, copied):
    remote.save_pretrained(tmp_path / "again")
    assert {f.name for f in (tmp_path / "again").glob("*.py")} == {f.name for f in Path(copied).glob("*.py")}
    again = AutoModel.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert torch.equal(answers(again, memory)[1], answers(remote, memory)[1])


@pytest.mark.parametrize("unknown", [{"compress_rate": 8}, {"pure_inference": True}])
def test_unknown_arguments_raise_through_automodel(copied, unknown):
    with pytest.raises(TypeError, match=next(iter(unknown))):
        AutoModel.from_pretrained(copied, trust_remote_code=True, **unknown)


def test_fields_are_overridden_or_refused_through_automodel(copied):
    model = AutoModel.from_pretrained(copied, trust_remote_code=True, retrieval_top_k=2)
    assert model.config.retrieval_top_k == 2
    for refused in ({"compression_rate": 8}, {"retrieval_top_k": 0}):
        with pytest.raises(ValueError):
            AutoModel.from_pretrained(copied, trust_remote_code=True, **refused)


def test_a_damaged_folder_raises_through_automodel(copied, tmp_path):
    folder = Path(shutil.copytree(copied, tmp_path / "damaged"))
    file = folder / "query_reasoner" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match="damaged or cut short"):
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="lacks its query_reasoner adapter"):
        AutoModel.from_pretrained(folder, trust_remote_code=True)


@pytest.mark.parametrize("name", ADAPTERS)
@torch.no_grad()
def test_plain_peft_loads_one_sub_folder(copied, base, shared_model, name):
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(copied), subfolder=name)
    ids = torch.arange(3, 30).view(1, -1)
    with wearing(shared_model.decoder, name):
        expected = shared_model.decoder(ids).logits
    assert torch.equal(plain.eval()(ids).logits, expected)


def test_the_shipped_folder_has_links_to_the_root_files_and_no_copies():
    root = Path(__file__).resolve().parents[2]
    shipped = {file.name: file.resolve() for file in root.glob("checkpoints/*/*_clara.py")}
    assert shipped == {file.name: file for file in root.glob("*_clara.py")}
