"""AdamW with float32 masters: parameters in bfloat16 or float16 are updated through float32 copies.

With bfloat16 weights an update below 1/256 of the weight is lost to rounding; at the paper's learning rates
most are.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from transformers import TrainingArguments

LOW_PRECISION = (torch.bfloat16, torch.float16)
ADAMW = ("adamw_torch", "adamw_torch_fused")


class MasterAdamW(torch.optim.Optimizer):
    """AdamW (decoupled weight decay) with moments and weights in float32, whatever the parameters' dtype.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        betas: Decay of the two moments.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Updates the masters and rounds them into the parameters."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        states = [self._state(p) for p in params]
        if not params:
            return
        masters = [state["master"] for state in states]
        adamw(
            masters,
            [p.grad.float() for p in params],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=float(group["lr"]),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        torch._foreach_copy_(own_parts(params), own_parts(masters))

    def _state(self, param: Tensor) -> dict[str, Tensor]:
        state = self.state[param]
        if not state:
            master = param.detach().float().clone()
            state.update(
                master=master,
                exp_avg=torch.zeros_like(master),
                exp_avg_sq=torch.zeros_like(master),
                step=torch.tensor(0.0),
            )
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores masters and moments in float32 (torch would round them to the parameters' dtype)."""
        super().load_state_dict(state_dict)
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for index, param in zip(saved, params, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                device = value.device if name == "step" else param.device
                self.state[param][name] = value.detach().to(device, torch.float32).clone()


def own_parts(tensors: list[Tensor]) -> list[Tensor]:
    """The part of each tensor that this process holds: itself, or a sharded one's own piece."""
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]


def master_adamw(
    model: nn.Module, args: TrainingArguments
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """`MasterAdamW` with its options if a parameter that trains is in bfloat16 or float16, else None.

    Raises:
        ValueError: If `optim` is another optimizer then, or has `optim_args`.
    """
    low = {p.dtype for p in model.parameters() if p.requires_grad and p.dtype in LOW_PRECISION}
    if not low:
        return None
    optim = str(getattr(args.optim, "value", args.optim))
    if optim not in ADAMW or args.optim_args:
        raise ValueError(
            f"`optim` {optim!r} with `optim_args` {args.optim_args!r} would update adapters in "
            f"{min(map(str, low))}, where most updates are lost to rounding: leave both out for AdamW with "
            "float32 masters, or load the model with dtype float32 (and `bf16: true` for speed)."
        )
    betas = (args.adam_beta1, args.adam_beta2)
    return MasterAdamW, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon}
