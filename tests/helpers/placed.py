"""A device that does not exist, so that tensors on the wrong one are found without a GPU.

Tensors that are moved there are tagged and stay where they are; an operation that mixes them with tensors
that were left on the CPU is an error, as it is on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

AWAY = torch.device("xpu", 0)
INDEXED = (Tensor.__getitem__, Tensor.__setitem__)  # a GPU's tensors take indices from the CPU
MOVES = (Tensor.to, Tensor.cpu, Tensor.type_as)


class WrongDeviceError(AssertionError):
    """An operation met tensors of two devices."""


class Placed(Tensor):
    """A tensor that says it is on the device that does not exist."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.device.__get__:
            return AWAY
        if func == Tensor.numpy:
            raise WrongDeviceError("numpy() of a tensor that is not on the CPU")
        with torch._C.DisableTorchFunctionSubclass():
            place = target_of(func, args, kwargs)
            inside = [t for t in tensors_in((args, kwargs)) if t.ndim or isinstance(t, Placed)]
            away = [t for t in inside if isinstance(t, Placed)]
            index = func in INDEXED and isinstance(args[0], cls)
            if place is None and len(away) < len(inside) and not index:
                raise WrongDeviceError(f"{getattr(func, '__name__', func)} of tensors on two devices")
            return tagged(func(*on_cpu(args), **on_cpu(kwargs)), away=place is None or place == AWAY)


class Watch(TorchFunctionMode):
    """Moves tensors to the device, and makes new ones there, where that is asked for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MOVES or asks_for(AWAY, (args, kwargs)):
            away = target_of(func, args, kwargs) == AWAY or asks_for(AWAY, (args, kwargs))
            with torch._C.DisableTorchFunctionSubclass():
                return tagged(func(*on_cpu(args), **on_cpu(kwargs)), away=away)
        return func(*args, **kwargs)


def target_of(func: Any, args: Any, kwargs: Any) -> torch.device | None:
    """Where a move goes; None for operations that are no move."""
    if func is Tensor.cpu:
        return torch.device("cpu")
    if func not in MOVES:
        return None
    for one in (*args[1:], *kwargs.values()):
        if isinstance(one, Tensor):
            return AWAY if isinstance(one, Placed) else torch.device("cpu")
        if isinstance(one, torch.device | str):
            return torch.device(one)
    return AWAY if isinstance(args[0], Placed) else torch.device("cpu")


def tensors_in(nested: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dictionaries."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, dict):
        yield from tensors_in(list(nested.values()))
    elif isinstance(nested, tuple | list):
        for one in nested:
            yield from tensors_in(one)


def asks_for(device: torch.device, nested: Any) -> bool:
    """Whether a device is named among arguments."""
    if isinstance(nested, dict):
        nested = list(nested.values())
    if isinstance(nested, tuple | list):
        return any(asks_for(device, one) for one in nested)
    return isinstance(nested, torch.device) and nested == device


def on_cpu(nested: Any) -> Any:
    """The same arguments, where the device that does not exist is the CPU."""
    if isinstance(nested, Placed):
        return nested.as_subclass(Tensor)
    if isinstance(nested, torch.device):
        return torch.device("cpu")
    if isinstance(nested, dict):
        return {name: on_cpu(one) for name, one in nested.items()}
    if isinstance(nested, list) or type(nested) is tuple:
        return type(nested)(on_cpu(one) for one in nested)
    return nested


def tagged(nested: Any, *, away: bool) -> Any:
    """Results with the tag of the device, or without it."""
    if isinstance(nested, Tensor):
        return nested.as_subclass(Placed if away else Tensor)
    if isinstance(nested, list) or type(nested) is tuple:
        return type(nested)(tagged(one, away=away) for one in nested)
    if type(nested).__module__ == "torch.return_types":  # of topk and max
        return type(nested)([tagged(one, away=away) for one in nested])
    return nested


def send_away(module: nn.Module) -> None:
    """Tag the parameters and buffers of a network."""
    for inner in module.modules():
        for name, parameter in inner._parameters.items():
            if parameter is not None:
                kept = nn.Parameter(parameter.detach().as_subclass(Placed), parameter.requires_grad)
                inner._parameters[name] = kept
        for name, buffer in inner._buffers.items():
            if buffer is not None:
                inner._buffers[name] = buffer.as_subclass(Placed)


@contextmanager
def watched() -> Iterator[None]:
    """Find operations on two devices, and new tensors on the wrong one, meanwhile."""
    with Watch():
        yield
