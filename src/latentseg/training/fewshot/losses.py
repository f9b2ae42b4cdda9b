"""What a few-shot network is trained on besides the paper's error of the mask latent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FINEST = 16  # edge of the grid of query tokens that are compared; of a finer layer every other one is


def soft_dice(probability: Tensor, truth: Tensor) -> Tensor:
    """Dice of ``(B, H, W)`` maps, ``(B,)``; a few pixels of smoothing."""
    both = (probability * truth).sum((1, 2))
    return (2 * both + 1) / (probability.sum((1, 2)) + truth.sum((1, 2)) + 1)


@torch.no_grad()
def dice_where_present(found: Tensor, truth: Tensor, present: Tensor) -> float:
    """Mean Dice of masks ``(B, H, W)`` over those with a weight ``(B,)`` of 1; 0 where there is none."""
    hard = soft_dice(found.float(), truth.float())
    return float((hard * present).sum() / present.sum().clamp(min=1))


def entropy(logits: Tensor, truth: Tensor, *, foreground: float) -> Tensor:
    """Cross-entropy of ``(B, H, W)`` maps, ``(B,)``; pixels of the target weigh ``foreground`` times more."""
    weight = logits.new_full((), foreground)
    return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight, reduction="none").mean((1, 2))


def matching(
    matches: list[tuple[Tensor, Tensor]], support_masks: Tensor, query_masks: Tensor, *, foreground: float
) -> Tensor:
    """How badly attention alone carries the support's mask to the query: a cross-entropy, mean over layers.

    In a layer the mask at query token ``i`` is ``sum_j A_ij m_j`` with ``A = softmax(Q K_s^T / sqrt(d))``
    over the support's tokens, the mean over heads, and ``m`` the share of each token that the mask covers.
    Keys and queries thereby learn to match long before the values carry anything worth attending to.

    Args:
        matches: Queries ``(B, heads, L, d)`` and support keys ``(B, heads, L, d)`` of each layer.
        support_masks: The support of each query, ``(B, H, W)``.
        query_masks: ``(B, H, W)``.
        foreground: Weight of tokens that the target touches.
    """
    losses = []
    for q, k in matches:
        side = round(q.shape[2] ** 0.5)
        shown, truth = (F.adaptive_avg_pool2d(m[:, None], side) for m in (support_masks, query_masks))
        step = max(side // FINEST, 1)
        truth = truth[..., ::step, ::step].flatten(1)
        shown = shown.flatten(1)
        asked = q.unflatten(2, (side, side))[:, :, ::step, ::step].flatten(2, 3) / q.shape[3] ** 0.5
        attention = (asked @ k.transpose(2, 3)).softmax(-1).mean(1)
        carried = torch.einsum("bij,bj->bi", attention, shown).clamp(1e-4, 1 - 1e-4)
        weight = 1 + (foreground - 1) * (truth > 0)
        losses.append(F.binary_cross_entropy(carried, truth, weight=weight))
    return torch.stack(losses).mean()
