"""A device "cuda" on a build without one: tensors compute on the CPU, and say and check that they do not.

A call that mixes tensors of both devices fails, as on a real one; a tensor without dimensions may come from
the CPU, and so may an index. Values are real, so that code which reads them (lengths, counts) runs as it is.
What happens inside one call of torch is not looked at.
"""

from contextlib import contextmanager
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
MIXING = {"__getitem__", "__setitem__", "copy_", "to", "cpu", "cuda", "as_subclass", "type_as", "__set__"}


class OnCuda(torch.Tensor):
    """A tensor that lies on the pretended device."""

    @property
    def device(self):
        return CUDA

    @property
    def is_cuda(self):
        return True

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return called(function, args, kwargs or {})


class Calls(TorchFunctionMode):
    """Sees every call, also those that make tensors."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return called(function, args, kwargs or {})


def is_device(value):
    return isinstance(value, torch.device) or (
        isinstance(value, str) and value.partition(":")[0] in ("cuda", "cpu")
    )


def called(function, args, kwargs):
    """Runs one call on the CPU; its result lies where it would lie."""
    name = getattr(function, "__name__", "")
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    there = [isinstance(t, OnCuda) for t in tensors]
    devices = [value for value in (*args, kwargs.get("device")) if is_device(value)]
    if any(there) and name not in MIXING:
        strangers = [tuple(t.shape) for t, on in zip(tensors, there, strict=True) if not on and t.dim()]
        if strangers:
            raise RuntimeError(f"{name}: tensors on cuda:0 and on cpu, of shapes {strangers}")
    if name == "__getitem__" and any(there) and not there[0]:
        raise RuntimeError("indices should be on cpu, as the indexed tensor is")
    cuda = any(there[:1]) if name in MIXING else any(there)
    if name in ("to", "type_as") and len(tensors) > 1:
        cuda = there[1]
    if devices:
        cuda = torch.device(devices[0]).type == "cuda"
    cuda = name == "cuda" or (cuda and name not in ("cpu", "numpy"))
    args, kwargs = tree_map(lambda value: CPU if is_device(value) else value, (args, kwargs))
    with torch._C.DisableTorchFunction():
        result = function(*args, **kwargs)
    kind = OnCuda if cuda else torch.Tensor
    mine = {id(t) for t in tensors}
    return tree_map(
        lambda t: t.as_subclass(kind)
        if isinstance(t, torch.Tensor) and type(t) in (torch.Tensor, OnCuda) and type(t) is not kind
        and (id(t) not in mine or name in ("to", "cpu", "cuda"))
        else t,
        result,
    )  # fmt: skip


@contextmanager
def pretended_cuda():
    """A block of code in which the device "cuda" can be used."""
    with mock.patch("torch.cuda._lazy_init", lambda: None), Calls():
        yield CUDA


def put(model):
    """The model with its parameters and buffers on the pretended device."""
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    moved = tensor.detach().clone().as_subclass(OnCuda)
                    is_parameter = isinstance(tensor, torch.nn.Parameter)
                    table[name] = torch.nn.Parameter(moved, tensor.requires_grad) if is_parameter else moved
    return model
