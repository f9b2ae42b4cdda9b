"""What DiffuGTS is trained on: masks where there are some, labels of whole images, and the texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.methods.diffugts.attention_maps import ABNORMAL, AttentionMaps, resized

TEMPERATURE = 0.07
FOCAL = 10.0  # weight of a mean over pixels, most of which are easy
FOREGROUND = 3.0  # weight of pixels of a labelled organ
TOUCHED = 0.05  # share of a cell from which a lesion touches it
WORST = 48  # cells of a slice, of those without a lesion the most suspicious
FEW_CELLS = 5.0  # added to both parts of Dice, so that a small lesion is not all or nothing


def focal(logits: Tensor, masks: Tensor, *, gamma: float = 2.0, foreground: float = 4.0) -> Tensor:
    """Focal loss (Lin et al. 2017) of two-class logits ``(B, 2, ...)`` for masks ``(B, ...)``, ``(B,)``."""
    likely = logits.log_softmax(1)
    truth = masks.long()
    right = likely.gather(1, truth[:, None])[:, 0]
    weight = 1 + (foreground - 1) * masks
    return (-weight * (1 - right.exp()) ** gamma * right).flatten(1).mean(1)


def dice(probability: Tensor, masks: Tensor) -> Tensor:
    """One minus soft Dice of ``(B, ...)`` maps, ``(B,)``."""
    probability, masks = probability.flatten(1), masks.flatten(1)
    both = 2 * (probability * masks).sum(1) + 1
    return 1 - both / (probability.sum(1) + masks.sum(1) + 1)


def pixel_loss(maps: AttentionMaps, masks: Tensor, masked: Tensor) -> Tensor:
    """Dice plus focal loss, over the images whose lesions are outlined.

    Args:
        maps: From the network.
        masks: ``(B, 1, ...)`` on any grid, zero for healthy images.
        masked: ``(B,)`` bool: whether an image's mask is known (a healthy image's is).
    """
    if not bool(masked.any()):
        return maps.logits.sum() * 0
    logits = resized(maps.logits, masks.shape[2:])[masked]
    truth = masks[masked, 0]
    has_lesion = (truth.flatten(1).sum(1) > 0).float()
    overlap = dice(logits.softmax(1)[:, ABNORMAL], truth)
    return (FOCAL * focal(logits, truth) + has_lesion * overlap).mean()


def image_loss(maps: AttentionMaps, abnormal: Tensor) -> Tensor:
    """Cross-entropy of the anomaly score for image labels ``(B,)`` in {0, 1}."""
    return F.binary_cross_entropy_with_logits(maps.score, abnormal.float())


def text_loss(maps: AttentionMaps, texts: Tensor) -> Tensor:
    """Symmetric contrastive loss: what an image shows to each text shall be that text and no other.

    In single precision always: in bf16 the cosine of a text and itself is not 1.

    Args:
        maps: With class embeddings ``(B, 2, D)``.
        texts: ``(B, 2, D)``; equal texts of a batch count as right, all of them.
    """
    seen = F.normalize(maps.class_embeddings.flatten(0, 1).float(), dim=1)
    said = F.normalize(texts.flatten(0, 1).float(), dim=1)
    with torch.autocast(said.device.type, enabled=False):
        logits = seen @ said.T / TEMPERATURE
        same = (said @ said.T > 0.999).float()
    target = same / same.sum(1, keepdim=True)
    rows = -(target * logits.log_softmax(1)).sum(1)
    columns = -(target * logits.T.log_softmax(1)).sum(1)
    return torch.cat([rows, columns]).mean()


def organ_loss(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy plus Dice where data sets know some organs only.

    A position that a data set calls none of its organs may be any organ that it does not label.

    Args:
        logits: ``(B, 1 + organs, ...)``.
        truth: ``(B, ...)``, 0 or the number of an organ.
        known: ``(B, 1 + organs)`` bool, what is labelled in an image; of 0 true.
    """
    shape = (*known.shape, *[1] * (logits.ndim - 2))
    chance = logits.log_softmax(1)
    elsewhere = (~known).reshape(shape).clone()
    elsewhere[:, 0] = True
    rest = chance.masked_fill(~elsewhere, -torch.inf).logsumexp(1)
    right = torch.where(truth > 0, chance.gather(1, truth[:, None])[:, 0], rest)
    weight = torch.where(truth > 0, FOREGROUND, 1.0)
    entropy = -(weight * right).sum() / weight.sum()
    classes = F.one_hot(truth, known.shape[1]).movedim(-1, 1).float()
    overlap = 2 * (chance.exp() * classes).flatten(2).sum(2) + 1
    dice = 1 - overlap / ((chance.exp() + classes).flatten(2).sum(2) + 1)
    here = (known & (classes.flatten(2).amax(2) > 0))[:, 1:]
    return entropy + (dice[:, 1:] * here).sum() / here.sum().clamp(min=1)


def lesion_loss(log_odds: Tensor, shares: Tensor, sure: Tensor, *, sizes: Sequence[int]) -> Tensor:
    """Cross-entropy of cells that are mostly lesion and of those that are none, and Dice of each run.

    Of cells without a lesion the most suspicious of each slice count as much as all cells of lesions, and all
    others besides. In slices that may have further lesions the outlined ones alone count.

    Args:
        log_odds: ``(B, h, w)``.
        shares: ``(B, h, w)``, of each cell, that is lesion; what lies between counts for Dice alone.
        sure: ``(B,)`` bool, whether a slice has no other lesions.
        sizes: Slices of each run, one after the other.
    """
    inside, outside = (shares > 0.5).float(), (shares < TOUCHED) & sure[:, None, None]
    small_too = inside / inside.sum((1, 2), keepdim=True).clamp(min=1).sqrt()
    missed = (small_too * F.softplus(-log_odds)).sum() / small_too.sum().clamp(min=1e-6)
    wrong = F.softplus(log_odds) * outside
    worst = wrong.flatten(1).topk(min(WORST, wrong[0].numel()), 1).values.sum() / (
        WORST * sure.sum().clamp(min=1)
    )
    every = wrong.sum() / outside.sum().clamp(min=1)
    chance = log_odds.sigmoid() * sure[:, None, None]
    lost = [
        1 - (2 * (found * truth).sum() + FEW_CELLS) / (found.sum() + truth.sum() + FEW_CELLS)
        for found, truth in zip(chance.split(list(sizes)), shares.split(list(sizes)), strict=True)
        if bool(truth.any())
    ]
    overlap = torch.stack(lost).mean() if lost else log_odds.sum() * 0
    return 0.3 * (missed + worst) + 3.0 * every + 0.5 * overlap
