"""Support-query interaction (SQI): queries attend to themselves and to the support, jointly.

In every self-attention of the denoiser the keys and values of the support are appended to those of the query, and one
softmax runs over both (SD-FSMIS, section "SQI"; the released operator)::

    out = softmax(Q_q [K_q; K_s]^T / sqrt(d)) [V_q; V_s]

The support is written once and read by any number of queries. What was written is a :class:`SupportCache`, a value
that is handed around: nothing is stored on modules, so several supports are alive at once and both passes are
differentiable. The cross-attention to the condition is cached in the same object: with one token its output does not
depend on the image at all (a softmax over one element is 1), so it folds to one vector per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor


class SupportWritten(Exception):  # noqa: N818 - a signal, not an error
    """The last self-attention has written its keys: the rest of the support pass would be thrown away."""


@dataclass(eq=False)
class SupportCache:
    """All that a query needs to know of ``G`` supports, per layer of the denoiser.

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
        """One cache with the groups of several, in order. All must have the same number of shots and tokens."""
        tables = [cache.tensors() for cache in caches]
        return cls.from_tensors({name: torch.cat([table[name] for table in tables]) for name in tables[0]})


@dataclass(frozen=True, eq=False)
class Interaction:
    """What is passed to the attention processors of one run of the denoiser (``cross_attention_kwargs``).

    Attributes:
        cache: Written to by the support pass, read by the query pass.
        mode: Which of the two passes this is.
        shots: ``n``, consecutive samples of the support batch that belong to one group.
        group: ``(B,)`` long, the group of each query; ``None`` when one group serves all, or for ``B == G`` in order.
    """

    cache: SupportCache
    mode: Literal["write", "read"]
    shots: int = 1
    group: Tensor | None = None

    def pick(self, tensor: Tensor, batch: int) -> Tensor:
        """The rows of ``tensor (G, ...)`` that the ``batch`` samples of this pass use, ``(batch, ...)``."""
        return pick_group(tensor, batch=batch, group=self.group)


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


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``(B, L, heads * d)`` to ``(B, heads, L, d)``."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``(B, heads, L, d)`` to ``(B, L, heads * d)``."""
    return x.transpose(1, 2).flatten(2)


def fold_shots(x: Tensor, shots: int) -> Tensor:
    """``(G * n, heads, L, d)`` to ``(G, heads, n * L, d)``: the shots of a group share the token axis."""
    return x.unflatten(0, (-1, shots)).transpose(1, 2).flatten(2, 3)


class SupportQueryInteraction:
    """Attention processor of a self-attention (``attn1``): writes the support, or attends to query and support.

    Args:
        layer: Name of the layer, the key under which it is cached.
        last: This is the last self-attention that the denoiser runs; once it has written, the pass is over.
    """

    def __init__(self, layer: str, *, last: bool = False) -> None:
        self.layer, self.last = layer, last

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        interaction: Interaction | None = None,
    ) -> Tensor:
        """Attend, ``(B, L, channels)`` to ``(B, L, channels)``; the signature is that of diffusers."""
        q, k, v = (split_heads(f(hidden_states), attn.heads) for f in (attn.to_q, attn.to_k, attn.to_v))
        if interaction is not None and interaction.mode == "write":
            self._write(interaction, k, v)
        elif interaction is not None:
            k, v = self._append_support(interaction, k, v)
        out: Tensor = F.scaled_dot_product_attention(q, k, v)
        return _project_out(attn, merge_heads(out))

    def _write(self, interaction: Interaction, k: Tensor, v: Tensor) -> None:
        interaction.cache.keys[self.layer] = fold_shots(k, interaction.shots)
        interaction.cache.values[self.layer] = fold_shots(v, interaction.shots)
        if self.last:
            raise SupportWritten

    def _append_support(self, interaction: Interaction, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        k_support = interaction.pick(interaction.cache.keys[self.layer], len(k))
        v_support = interaction.pick(interaction.cache.values[self.layer], len(v))
        return torch.cat([k, k_support.to(k)], 2), torch.cat([v, v_support.to(v)], 2)


class FoldedCondition:
    """Attention processor of a cross-attention (``attn2``): a constant per group for a one-token condition.

    ``attn2(x) = to_out(to_v(E))`` for every pixel when ``E`` is one token; neither queries nor keys are computed.
    With more tokens it is ordinary attention. Either way what depends on the condition alone is in the cache, written
    by :meth:`write` once per group.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer

    def write(self, attn: Any, cache: SupportCache, condition: Tensor) -> None:
        """Cache what this layer, whose module is ``attn``, makes of the condition ``(G, T, D)``."""
        if condition.shape[1] == 1:
            cache.condition_bias[self.layer] = _project_out(attn, attn.to_v(condition))
        else:
            cache.condition_keys[self.layer] = split_heads(attn.to_k(condition), attn.heads)
            cache.condition_values[self.layer] = split_heads(attn.to_v(condition), attn.heads)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        interaction: Interaction | None = None,
    ) -> Tensor:
        """Attend to the cached condition, ``(B, L, channels)`` to ``(B, L, channels)``.

        Outside of the two passes the condition is ``encoder_hidden_states``, as for any other processor.
        """
        if interaction is None:
            interaction = Interaction(SupportCache(), "read")
            self.write(attn, interaction.cache, cast("Tensor", encoder_hidden_states))
        if self.layer in interaction.cache.condition_bias:
            return self._rows(interaction, interaction.cache.condition_bias[self.layer], hidden_states)
        q = split_heads(attn.to_q(hidden_states), attn.heads)
        k = self._rows(interaction, interaction.cache.condition_keys[self.layer], q)
        v = self._rows(interaction, interaction.cache.condition_values[self.layer], q)
        out: Tensor = F.scaled_dot_product_attention(q, k, v)
        return _project_out(attn, merge_heads(out))

    def _rows(self, interaction: Interaction, tensor: Tensor, like: Tensor) -> Tensor:
        if interaction.mode == "write":
            tensor = tensor.repeat_interleave(interaction.shots, 0)
        return interaction.pick(tensor, len(like)).to(like)


def _project_out(attn: Any, x: Tensor) -> Tensor:
    out: Tensor = attn.to_out[1](attn.to_out[0](x))
    return out
