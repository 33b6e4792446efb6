"""Plain causal LMs out of models and models out of fine-tunes: the same logits on the way there and back."""

import json

import pytest
import torch
from clara.adapters_clara import wearing
from clara.commands.main import main
from clara.convert.text_generation import from_text_generation, to_text_generation
from clara.modeling_clara import ClaraForRetrievalGeneration
from conftest import DOCUMENTS, make_model
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

FIELDS = {"doc_max_length": 64, "lora_r": 4, "lora_alpha": 8}
IDS = torch.arange(40, 80).reshape(2, 20)


@torch.no_grad()
def logits(model):
    """Those of a plain causal LM."""
    return model(input_ids=IDS).logits


@torch.no_grad()
def generator_logits(model):
    """Those of a model wearing its generator."""
    with wearing(model.decoder, "generator"):
        return model.decoder(input_ids=IDS).logits


@pytest.fixture(scope="module")
def plain(shared_model, tmp_path_factory):
    """The folder of the merged generator."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    to_text_generation(shared_model, folder)
    return str(folder)


def adapter(base, folder, **kwargs):
    """A fine-tune of the base as a plain PEFT folder with a B that is not 0; its merged logits."""
    fields = {"r": 3, "lora_alpha": 9, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**{**fields, **kwargs}))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    tuned.eval().save_pretrained(folder)
    return logits(tuned)


def test_the_command_writes_a_plain_model_with_the_generators_logits(checkpoint, tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["convert", "to-text-generation", checkpoint, "--output", str(folder)]) == 0
    assert f"AutoModelForCausalLM.from_pretrained('{folder}')" in capsys.readouterr().out
    plain, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    fields = json.loads((folder / "config.json").read_text())
    assert fields["architectures"] == ["LlamaForCausalLM"] and "auto_map" not in fields
    model = ClaraForRetrievalGeneration.from_pretrained(checkpoint)
    torch.testing.assert_close(logits(plain), generator_logits(model), rtol=1e-4, atol=1e-4)
    assert (logits(plain) - logits(model.decoder)).abs().max() > 0.1
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert main(["convert", "to-text-generation", checkpoint, "--output", str(folder)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_there_and_back_is_the_generator_again(plain, base, shared_model, tmp_path, capsys):
    command = ["convert", "from-text-generation", plain, "--base", base, "--output", str(tmp_path / "back")]
    assert main([*command, "--model-fields", json.dumps(FIELDS)]) == 0
    assert "holds 100.0% of the change" in capsys.readouterr().out
    back = AutoModel.from_pretrained(tmp_path / "back", trust_remote_code=True)
    wanted = generator_logits(shared_model)
    torch.testing.assert_close(generator_logits(back), wanted, rtol=1e-3, atol=1e-3)
    assert back.generate("Who found Titan?", DOCUMENTS, max_new_tokens=2)


def test_a_smaller_rank_keeps_the_best_part(plain, base):
    kept = [from_text_generation(plain, base, **{**FIELDS, "lora_r": rank}).kept for rank in (1, 2, 4)]
    assert 0.2 < kept[0] < kept[1] < 0.95 and kept[2] == pytest.approx(1, abs=1e-5)


def test_full_weights_become_the_base(plain):
    made = from_text_generation(plain, **FIELDS)
    assert torch.equal(logits(made.model.decoder), logits(AutoModelForCausalLM.from_pretrained(plain)))
    assert torch.equal(generator_logits(made.model), logits(made.model.decoder)) and made.kept == 1
    assert made.model.config.base_model_name_or_path == plain


def test_a_lora_adapter_becomes_the_generator(base, tmp_path):
    wanted = adapter(base, tmp_path, rank_pattern={"down_proj": 2}, alpha_pattern={"q_proj": 5})
    model = from_text_generation(str(tmp_path), doc_max_length=64).model
    torch.testing.assert_close(generator_logits(model), wanted, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path / "model")
    again = ClaraForRetrievalGeneration.from_pretrained(tmp_path / "model")
    assert torch.equal(generator_logits(again), generator_logits(model))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"use_rslora": True}, "`use_rslora`"),
        ({"use_dora": True}, "plain LoRA"),
        ({"target_modules": r".*\.q_proj"}, "`target_modules`"),
    ],
)
def test_other_adapters_are_refused(base, tmp_path, fields, told):
    adapter(base, tmp_path, **fields)
    with pytest.raises(ValueError, match=told):
        from_text_generation(str(tmp_path))


def test_weights_that_no_adapter_reaches_are_named(base, plain, tmp_path):
    tuned = AutoModelForCausalLM.from_pretrained(plain)
    with torch.no_grad():
        tuned.model.norm.weight.add_(1)
    tuned.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"differs from the base in model\.norm\.weight, which no adapter .* leave `base`"
    ):
        from_text_generation(str(tmp_path), base, **FIELDS)
    tuned.resize_token_embeddings(520)
    tuned.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="differs in shape"):
        from_text_generation(str(tmp_path), base, **FIELDS)


def test_the_model_is_left_as_it_was(base, tmp_path):
    model = make_model(base)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    to_text_generation(model, tmp_path / "out")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
