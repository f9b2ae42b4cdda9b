"""Scores of tumors of an organ, calibrated on whole healthy scans: few of them may hold a suspicious slice.

What is calibrated slice by slice suspects some slice of nearly every scan, and organs differ in how
suspicious they look when they are healthy. Scans that the training did not see are the better judges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from statistics import NormalDist, mean, stdev
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.diffugts.attention_maps import resized
from latentseg.methods.tumor.body_crop import denoised
from latentseg.methods.tumor.features import FrozenStages
from latentseg.methods.tumor.lung_field import distances_from
from latentseg.methods.tumor.network import TumorNetwork
from latentseg.methods.tumor.queries import Queries
from latentseg.methods.tumor.views import PART_OF, key_of
from latentseg.text.vocabulary import concept_named
from latentseg.training.pack import PackedScan
from latentseg.training.tumor.lesion_sites import tumor_of
from latentseg.training.tumor.samples import Samples, is_kept

SLICES, SLAB = 64, 8  # of a scan, and how many go through a network at a time
SURE = 0.999  # of a normal distribution, where no alarm is allowed
LONG, FEWEST = 8, 4  # slices of a scan, and number of such scans from which on pictures are left out


class Alarms(NamedTuple):
    """Shares of healthy single slices, and of healthy scans, that may still be suspected."""

    slices: float
    scans: float


def calibrate_organs(
    network: TumorNetwork,
    frozen: FrozenStages,
    queries: Queries,
    samples: Samples,
    *,
    views: Mapping[str, str],
    alarms: Alarms,
) -> None:
    """Set what the score is lowered by for tumors of each organ that is found in scans.

    Args:
        network: Trained; its offsets are replaced.
        frozen: Of the backbone.
        queries: Reads prompts.
        samples: Healthy scans are read from their pack.
        views: Part of the body that the scans of a data set show.
        alarms: What may still be suspected.
    """
    hosts = samples.options.hosts
    organs = {*network.organs.trusted, *hosts.tissues.values()}
    organs = organs & {*hosts.organs} if hosts.organs else organs
    network.views.by_organ = {}
    for part in sorted(set(views.values())):
        asked = [o for o in sorted(organs) if tumor_of(o) and PART_OF.get(concept_named(o).region) == part]
        scans = healthy_scans(samples, {source for source, shown in views.items() if shown == part})
        long = bool(scans) and scans[0].count >= LONG
        scores: dict[str, list[float]] = {}
        for scan in scans if asked else ():
            images, labels = images_of(samples, scan)
            unseen = set(asked) - set(network.organs.trusted)
            away = dict.fromkeys(asked) | distances(scan, labels, unseen)
            for organ, score in highest(network, frozen, queries, scan.modality, images, away).items():
                scores.setdefault(key_of(organ, scan.modality), []).append(score)
        for key, found in scores.items():
            network.views.by_organ[key] = round(threshold(found, alarms, long=long), 2)


def threshold(scores: Sequence[float], alarms: Alarms, *, long: bool) -> float:
    """The score that few healthy scans pass; those of whole scans are taken for normally distributed."""
    if long and len(scores) > 1:
        return mean(scores) + NormalDist().inv_cdf(min(1 - alarms.scans, SURE)) * stdev(scores)
    return float(np.quantile(scores, 1 - alarms.slices))


def healthy_scans(samples: Samples, sources: AbstractSet[str]) -> list[PackedScan]:
    """Scans of some data sets without a tumor that is known of; single slices where there is little else.

    Those that are kept from the training, where some are.
    """
    sound = samples.chance["sound"] > 0
    own = [scan for scan in samples.packed.scans if scan.source in sources]
    kept = [scan for scan in own if is_kept(scan, samples.options.validation)]
    every = kept or [scan for scan in own if sound[scan.first]]
    long = [scan for scan in every if scan.count >= LONG]
    return long if len(long) >= FEWEST else every


def images_of(samples: Samples, scan: PackedScan) -> tuple[Tensor, NDArray[np.uint8]]:
    """Evenly spaced slices ``(n, 1, H, W)`` of a packed scan as they are segmented, and their labels."""
    places = np.linspace(0, scan.count - 1, min(SLICES, scan.count)).astype(int)
    slices = samples.packed.images[scan.first + places].astype(np.float32) / 127.5 - 1
    images = torch.from_numpy(denoised(slices) if scan.modality == "CT" else slices)[:, None]
    return images, np.asarray(samples.packed.labels[scan.first + places])


def distances(scan: PackedScan, labels: NDArray[np.uint8], organs: AbstractSet[str]) -> dict[str, Tensor]:
    """Distances from those of some organs that are labelled in a scan, as of :func:`distances_from`."""
    return {name: distances_from(labels == label) for label, name in scan.labels.items() if name in organs}


@torch.no_grad()
def highest(
    network: TumorNetwork,
    frozen: FrozenStages,
    queries: Queries,
    modality: str,
    images: Tensor,
    organs: Mapping[str, Tensor | None],
) -> dict[str, float]:
    """The highest score of a scan's slices, as a logit, for a tumor of each organ that is in view.

    Of organs that the network does not find, the distances may be given.
    """
    slabs = zip(*map(frozen, images.split(SLAB)), strict=True)
    stages = [torch.cat(level) for level in slabs]
    chances = network.organs(stages).softmax(1) if network.organs.names else images
    found: dict[str, float] = {}
    for organ, labelled in organs.items():
        known = organ in network.organs.trusted
        away = network.organs.distances(chances, organ) if known else labelled
        if away is not None:
            away = resized(away, stages[0].shape[2:])
        if away is None or bool((away < 1).any()):
            texts = queries(tumor_of(organ), modality).texts.expand(len(images), -1, -1)
            found[organ] = float(network.attention(stages, texts, away=away).score.max())
    return found
