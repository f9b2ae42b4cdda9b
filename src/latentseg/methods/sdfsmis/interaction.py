"""Support-query interaction (SQI): the query attends to itself and to the support at the same time.

In every self-attention of the denoiser the keys and values of the support are appended to those of the query,
and one softmax runs over both (SD-FSMIS, section "SQI"; the released operator)::

    out = softmax(Q_q [K_q; K_s]^T / sqrt(d)) [V_q; V_s]

The support pass writes its keys and values once, into a :class:`SupportCache`; any number of query passes
read them. Nothing is stored on the modules, so several supports can be in use at the same time and both
passes are differentiable. The cross-attention to the condition is cached in the same object. With a single
condition token its output does not depend on the image (a softmax over one element is 1), so it is one vector
per layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from latentseg.methods.sdfsmis.cache import SupportCache, pick_group


class SupportWritten(Exception):  # noqa: N818 - a signal, not an error
    """Ends the support pass once the last self-attention has written its keys: the rest is not needed."""


@dataclass(frozen=True, eq=False)
class Interaction:
    """What is passed to the attention processors of one run of the denoiser (``cross_attention_kwargs``).

    Attributes:
        cache: Written to by the support pass, read by the query pass.
        mode: Which of the two passes this is.
        shots: ``n``, consecutive samples of the support batch that belong to one group.
        group: ``(B,)`` long, the group of each query; ``None`` when one group serves all, or for ``B == G``
            in order.
        matches: Where a training collects the queries ``(B, heads, L, d)`` of each layer and the support keys
            ``(B, heads, n * L, d)`` they are compared with.
    """

    cache: SupportCache
    mode: Literal["write", "read"]
    shots: int = 1
    group: Tensor | None = None
    matches: list[tuple[Tensor, Tensor]] | None = None

    def pick(self, tensor: Tensor, batch: int) -> Tensor:
        """The rows of ``tensor (G, ...)`` that the ``batch`` samples of this pass use, ``(batch, ...)``."""
        return pick_group(tensor, batch=batch, group=self.group)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``(B, L, heads * d)`` to ``(B, heads, L, d)``."""
    split: Tensor = x.unflatten(2, (heads, -1)).transpose(1, 2)
    return split


def merge_heads(x: Tensor) -> Tensor:
    """``(B, heads, L, d)`` to ``(B, L, heads * d)``."""
    return x.transpose(1, 2).flatten(2)


def fold_shots(x: Tensor, shots: int) -> Tensor:
    """``(G * n, heads, L, d)`` to ``(G, heads, n * L, d)``: the shots of a group share the token axis."""
    folded: Tensor = x.unflatten(0, (-1, shots)).transpose(1, 2).flatten(2, 3)
    return folded


class SupportQueryInteraction:
    """Attention processor of a self-attention (``attn1``) that writes the support, or reads it.

    Args:
        layer: Name of the layer, the key under which it is cached.
        last: Whether this is the last self-attention of the denoiser; the pass ends once it has written.
    """

    def __init__(self, layer: str, *, last: bool = False) -> None:
        self.layer, self.last = layer, last

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,  # noqa: ARG002 - the signature of diffusers
        attention_mask: Tensor | None = None,  # noqa: ARG002
        *,
        interaction: Interaction | None = None,
    ) -> Tensor:
        """Attend, ``(B, L, channels)`` to ``(B, L, channels)``."""
        q, k, v = (split_heads(f(hidden_states), attn.heads) for f in (attn.to_q, attn.to_k, attn.to_v))
        if interaction is not None and interaction.mode == "write":
            self._write(interaction, k, v)
        elif interaction is not None:
            if interaction.matches is not None:
                interaction.matches.append((q, interaction.pick(interaction.cache.keys[self.layer], len(q))))
            k, v = self._append_support(interaction, k, v)
        out: Tensor = functional.scaled_dot_product_attention(q, k, v)
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
    """Attention processor of a cross-attention (``attn2``), whose condition is in the cache.

    When the condition ``E`` is one token, ``attn2(x) = to_out(to_v(E))`` for every pixel, and neither queries
    nor keys are computed. With more tokens it is ordinary attention. In both cases :meth:`write` computes
    what depends on the condition alone, once per group.
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
        attention_mask: Tensor | None = None,  # noqa: ARG002 - the signature of diffusers
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
        out: Tensor = functional.scaled_dot_product_attention(q, k, v)
        return _project_out(attn, merge_heads(out))

    def _rows(self, interaction: Interaction, tensor: Tensor, like: Tensor) -> Tensor:
        if interaction.mode == "write":
            tensor = tensor.repeat_interleave(interaction.shots, 0)
        return interaction.pick(tensor, len(like)).to(like)


def _project_out(attn: Any, x: Tensor) -> Tensor:
    out: Tensor = attn.to_out[1](attn.to_out[0](x))
    return out
