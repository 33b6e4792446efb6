"""AdamW with float32 masters."""

import pytest
import torch
from clara.train.optimizer import MasterAdamW
from conftest import make_model
from torch import nn
from training_helpers import make_trainer


def steps(optimizer, parameter, gradients):
    for gradient in gradients:
        parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()


def gradients(count=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 4, generator=generator).bfloat16().float() for _ in range(count)]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_with_float32_weights_it_is_adamw(decay):
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    own, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    steps(MasterAdamW([own], lr=0.1, betas=(0.9, 0.95), weight_decay=decay), own, gradients())
    steps(torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.95), weight_decay=decay), theirs, gradients())
    torch.testing.assert_close(own, theirs, rtol=1e-6, atol=1e-7)


def test_updates_of_a_millionth_add_up_in_bfloat16():
    """1000 steps of 1e-6 down from 1, where bfloat16 has steps of 1/256: plain AdamW stays at 1 for ever."""
    own, theirs = (nn.Parameter(torch.ones(1, dtype=torch.bfloat16)) for _ in range(2))
    optimizer = MasterAdamW([own], lr=1e-6)
    steps(optimizer, own, [torch.ones(1)] * 1000)
    steps(torch.optim.AdamW([theirs], lr=1e-6, weight_decay=0.0), theirs, [torch.ones(1)] * 1000)
    assert theirs.item() == 1.0
    master = optimizer.state[own]["master"]
    assert master.dtype == torch.float32
    assert master.item() == pytest.approx(1 - 1e-3, abs=3e-5)
    assert own.item() == master.bfloat16().item() == 1.0
    steps(optimizer, own, [torch.ones(1)] * 2000)
    assert own.item() == 1 - 1 / 256  # the nearest to 0.997


def test_state_goes_through_a_file_in_float32_and_training_goes_on_the_same(tmp_path):
    own = nn.Parameter(torch.ones(3, 4, dtype=torch.bfloat16))
    optimizer = MasterAdamW([{"params": [own], "weight_decay": 0.1}], lr=1e-3)
    steps(optimizer, own, gradients(3))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    other = nn.Parameter(own.detach().clone())
    restored = MasterAdamW([{"params": [other], "weight_decay": 0.1}], lr=1e-3)
    restored.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for name, value in optimizer.state[own].items():
        assert restored.state[other][name].dtype == torch.float32
        assert torch.equal(restored.state[other][name], value), name
    steps(optimizer, own, gradients(3))
    steps(restored, other, gradients(3))
    assert torch.equal(own, other)
    assert torch.equal(optimizer.state[own]["master"], restored.state[other]["master"])


def test_parameters_without_a_gradient_stay_as_they_are():
    one, two = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = MasterAdamW([one, two], lr=0.1)
    steps(optimizer, one, [torch.ones(2)])
    assert (one < 1).all() and (two == 1).all() and two not in optimizer.state


def test_the_closures_loss_is_returned():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = MasterAdamW([parameter], lr=0.1)

    def closure():
        loss = (parameter * 2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert parameter.item() == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_trainer_uses_it_where_adapters_are_in_bfloat16(base, tmp_path, dtype):
    model = make_model(base).to(dtype)
    trainer = make_trainer(model, tmp_path, weight_decay=0.1, adam_beta2=0.98, max_steps=1)
    trainer.train()
    optimizer = trainer.optimizer.optimizer
    assert type(optimizer) is (MasterAdamW if dtype == torch.bfloat16 else torch.optim.AdamW)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.98)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1, 0.0}
