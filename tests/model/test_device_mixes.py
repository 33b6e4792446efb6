"""No tensor is made on the wrong device: all runs on a pretended CUDA device with the CPU's numbers."""

import pytest
import torch
from clara.train.stages import STAGES
from conftest import DOCUMENTS, QUESTIONS, make_model
from pretend_cuda import OnCuda, pretended_cuda, put
from training_helpers import make_trainer


def test_the_pretended_device_sees_a_mix():
    with pretended_cuda():
        there = torch.ones(2, 3, device="cuda")
        assert there.device.type == "cuda" and (there + 1).device.type == "cuda"
        assert there.cpu().device.type == "cpu" and torch.ones(2).to(there.device).device.type == "cuda"
        with pytest.raises(RuntimeError, match="tensors on cuda:0 and on cpu"):
            there + torch.ones(2, 3)
        with pytest.raises(RuntimeError, match="indices should be on cpu"):
            torch.ones(2, 3)[torch.zeros(1, dtype=torch.long, device="cuda")]


@pytest.mark.parametrize("pooling", ["memory_tokens", "mean"])
def test_text_in_text_out(base, pooling):
    model = make_model(base, pooling=pooling, connector="rms")
    expected = model.generate(QUESTIONS, DOCUMENTS, max_new_tokens=4)
    ids = torch.arange(3, 19).view(2, 8)
    with torch.no_grad():
        memories = model.compress(ids).values, model.reason(ids).values
    with pretended_cuda(), torch.no_grad():
        put(model)
        assert model.generate(QUESTIONS, DOCUMENTS, max_new_tokens=4) == expected
        found = model.compress(ids.to("cuda")).values, model.reason(ids.to("cuda")).values
        assert all(type(memory) is OnCuda for memory in found)
    for memory, wanted in zip(found, memories, strict=True):
        torch.testing.assert_close(memory.as_subclass(torch.Tensor), wanted)


@pytest.mark.parametrize("contrastive", [0.0, 1.0])
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_of_training(base, tmp_path, stage, contrastive):
    weight = 0.0 if stage == "instruction_tuning" else contrastive
    trainer = make_trainer(make_model(base, lora_dropout=0.0), tmp_path, stage, contrastive_weight=weight)
    model = trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    expected = trainer.compute_loss(model, dict(batch)).detach()
    with pretended_cuda():
        put(model)
        if trainer._candidates is not None:
            trainer._candidates = trainer._candidates.to("cuda")
        there = {name: v.to("cuda") if isinstance(v, torch.Tensor) else v for name, v in batch.items()}
        loss = trainer.compute_loss(model, there)
        loss.backward()
    assert type(loss) is OnCuda
    torch.testing.assert_close(loss.detach().as_subclass(torch.Tensor), expected)
    assert any(p.grad is not None for p in model.parameters())
