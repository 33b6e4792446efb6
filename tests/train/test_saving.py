"""What a trainer writes for use."""

import pytest
import torch
from clara.modeling_clara import ClaraForRetrievalGeneration
from conftest import make_model
from safetensors.torch import load_file
from training_helpers import make_trainer


def test_the_final_model_in_another_dtype_with_its_card(base, tmp_path):
    model = make_model(base)
    trainer = make_trainer(model, tmp_path, max_steps=1)
    trainer.train()
    trainer.origin = {"command": "clara train", "data": ["rows.jsonl"]}
    trainer.save_final(str(tmp_path / "final"), torch.bfloat16)
    tensors = load_file(tmp_path / "final" / "generator" / "adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert set(load_file(tmp_path / "final" / "model.safetensors")) == {"memory_tokens"}
    assert "rows.jsonl" in (tmp_path / "final" / "README.md").read_text()
    loaded = ClaraForRetrievalGeneration.from_pretrained(tmp_path / "final")
    torch.testing.assert_close(loaded.memory_tokens, model.memory_tokens, atol=0.02, rtol=0.01)
    assert loaded.config.base_model_name_or_path == base


def test_a_changed_base_goes_along_with_the_final_model(base, tmp_path):
    model = make_model(base)
    with torch.no_grad():
        model.get_input_embeddings().weight[3] += 1.0
    model.config.base_is_changed = True
    trainer = make_trainer(model, tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    assert set(load_file(tmp_path / "checkpoint-1" / "model.safetensors")) == {"memory_tokens"}
    trainer.save_final(str(tmp_path / "final"))
    loaded = ClaraForRetrievalGeneration.from_pretrained(tmp_path / "final")
    own = dict(model.named_parameters())
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, own[name.replace(".query_reasoner.", ".compressor.")])
    query = load_file(tmp_path / "final" / "query_reasoner" / "adapter_model.safetensors")
    assert all(t.abs().max() > 0 for name, t in query.items() if "lora_B" in name), "an untrained reasoner"


def test_the_card_takes_the_callers_names(base, tmp_path):
    trainer = make_trainer(make_model(base), tmp_path / "run-7", max_steps=1)
    trainer.create_model_card()
    assert "# run-7\n" in (tmp_path / "run-7" / "README.md").read_text()
    trainer.create_model_card(model_name="Mine", dataset_name="owner/rows", tags="extra")
    text = (tmp_path / "run-7" / "README.md").read_text()
    assert "# Mine\n" in text and "- owner/rows" in text and "- extra" in text


def test_save_model_writes_what_from_pretrained_loads(base, tmp_path):
    model = make_model(base, connector="rms")
    trainer = make_trainer(model, tmp_path, max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = ClaraForRetrievalGeneration.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("limit", [1, 3])
def test_so_many_checkpoints_are_kept_and_the_argument_stays(base, tmp_path, limit):
    fields = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": limit, "max_steps": 4}
    trainer = make_trainer(make_model(base), tmp_path, **fields)
    trainer.train()
    assert sorted(tmp_path.glob("checkpoint-*")) == [
        tmp_path / f"checkpoint-{5 - i}" for i in range(limit, 0, -1)
    ]
    assert trainer.args.save_total_limit == limit
    assert f'"save_total_limit": {limit}' in (tmp_path / "checkpoint-4" / "training_args.json").read_text()
