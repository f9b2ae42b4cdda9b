"""The keys, values and condition of the support, which the query pass reads.

The cache is computed once per support, is an ordinary value that is passed around, and can be saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class SupportCache:
    """What the attention layers of the denoiser computed of ``G`` supports, per layer.

    Attributes:
        keys: Self-attention keys, ``(G, heads, n * L, d)``; the ``n`` shots lie one after the other.
        values: Self-attention values, likewise.
        condition_bias: Cross-attention output for a one-token condition, ``(G, 1, channels)``.
        condition_keys: Cross-attention keys for more than one token, ``(G, heads, T, d)``.
        condition_values: Cross-attention values, likewise.
    """

    keys: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    condition_bias: dict[str, Tensor] = field(default_factory=dict)
    condition_keys: dict[str, Tensor] = field(default_factory=dict)
    condition_values: dict[str, Tensor] = field(default_factory=dict)

    @property
    def groups(self) -> int:
        """``G``, the number of supports (targets, or episodes of a training batch)."""
        return next(iter(self.keys.values())).shape[0] if self.keys else 0

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under a flat name such as ``keys/<layer>``, as safetensors wants it."""
        return {f"{part}/{layer}": t for part, table in vars(self).items() for layer, t in table.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> SupportCache:
        """The inverse of :meth:`tensors`."""
        cache = cls()
        for name, tensor in tensors.items():
            part, layer = name.split("/", 1)
            getattr(cache, part)[layer] = tensor
        return cache

    def to(self, *args: Any, **kwargs: Any) -> SupportCache:
        """A copy with every tensor moved or cast as by ``Tensor.to``."""
        return self.from_tensors({name: t.to(*args, **kwargs) for name, t in self.tensors().items()})

    @classmethod
    def cat(cls, caches: Sequence[SupportCache]) -> SupportCache:
        """One cache with the groups of several, in order; all have the same number of shots and tokens."""
        tables = [cache.tensors() for cache in caches]
        return cls.from_tensors({name: torch.cat([table[name] for table in tables]) for name in tables[0]})


def pick_group(tensor: Tensor, *, batch: int, group: Tensor | None = None) -> Tensor:
    """Rows of ``tensor (G, ...)`` for each of ``batch`` samples, without a copy when one row serves all.

    Raises:
        ValueError: When it is not said which of several groups each sample belongs to.
    """
    if group is not None:
        return tensor[group]
    if tensor.shape[0] not in (1, batch):
        raise ValueError(f"{batch} queries and {tensor.shape[0]} supports need a group index")
    return tensor.expand(batch, *tensor.shape[1:])
