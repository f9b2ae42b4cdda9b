"""What DiffuGTS is trained on: masks where there are some, labels of whole images, and the texts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.methods.diffugts.attention_maps import ABNORMAL, AttentionMaps, resized

TEMPERATURE = 0.07
FOCAL = 10.0  # weight of a mean over pixels, most of which are easy


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
