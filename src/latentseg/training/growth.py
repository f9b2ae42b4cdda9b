"""Larger networks that start as smaller trained ones.

What is known is copied, and what is new says nothing at first: a layer with more inputs ignores the new ones
(their weights are zero), a layer with more outputs computes the old ones as before, and a residual block that
the smaller network lacks starts as the identity, as the blocks of Net2Net do (Chen et al. 2016).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from latentseg.errors import ModelError

# Channels that are means and log-variances one after the other grow in both halves: (outputs, inputs).
MOMENTS = {"encoder.conv_out": (2, 1), "quant_conv": (2, 2)}
LAST_OF_BLOCK = ".conv2."


@torch.no_grad()
def grow_from(module: nn.Module, tensors: Mapping[str, Tensor], *, where: Path) -> None:
    """Copy the weights of a smaller network into a larger one.

    Args:
        module: With weights of its own; those that nothing is copied into stay.
        tensors: The smaller network's.
        where: Their file, for messages.

    Raises:
        ModelError: The weights belong to no smaller network of this kind.
    """
    own = module.state_dict()
    foreign = sorted(set(tensors) - set(own))
    shrunk = [n for n in own if n in tensors and not _fits(tensors[n], own[n])]
    if foreign or shrunk:
        what = f"weights do not fit ({(foreign + shrunk)[0]} belongs to another network)"
        raise ModelError(what, where=str(where), fix="start from weights of a smaller network of this kind")
    for name, parameter in own.items():
        if name in tensors:
            layer = name.removeprefix("vae.").rpartition(".")[0]
            parameter.copy_(grown(tensors[name], parameter, halves=MOMENTS.get(layer, (1, 1))))
        elif LAST_OF_BLOCK in name:
            parameter.zero_()


def grown(old: Tensor, new: Tensor, *, halves: tuple[int, int] = (1, 1)) -> Tensor:
    """A tensor of the new shape that computes what the old one does, and more.

    Args:
        old: ``(O, I, ...)`` or ``(O,)``.
        new: ``(O' >= O, I' >= I, ...)``; gives the additional outputs.
        halves: Into how many groups outputs and inputs fall, each of which grows at its end.
    """
    out = new.clone()
    if old.ndim == 0:
        return out.copy_(old)
    rows = _places(len(old), len(new), halves[0])
    if old.ndim == 1:
        out[rows] = old
        return out
    known = torch.zeros_like(out[rows])
    known[:, _places(old.shape[1], new.shape[1], halves[1])] = old
    out[rows] = known
    return out


def _places(old: int, new: int, groups: int) -> Tensor:
    """Where the channels of a smaller layer are among those of a larger one."""
    within = torch.arange(old // groups)
    return torch.cat([within + group * (new // groups) for group in range(groups)])


def _fits(old: Tensor, new: Tensor) -> bool:
    return old.ndim == new.ndim and all(a <= b for a, b in zip(old.shape, new.shape, strict=True))
