"""Scores of tumors of an organ, calibrated on healthy slices and scans: few of either may be suspected.

What is calibrated slice by slice suspects some slice of nearly every scan, what is calibrated by scans calls
tumors in single pictures absent, and organs differ in how suspicious they look when they are healthy. Scans
that the training did not see are the better judges.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from statistics import NormalDist, mean, stdev
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.diffugts.attention_maps import resized
from latentseg.methods.tumor.along_slices import smooth
from latentseg.methods.tumor.body_crop import denoised
from latentseg.methods.tumor.features import FrozenStages
from latentseg.methods.tumor.lung_field import distances_from
from latentseg.methods.tumor.network import TumorNetwork
from latentseg.methods.tumor.options import RECOMMENDED
from latentseg.methods.tumor.picture_network import PictureNetwork
from latentseg.methods.tumor.queries import Queries
from latentseg.methods.tumor.seen import seen_of
from latentseg.methods.tumor.told import Beside
from latentseg.methods.tumor.views import PART_OF, Offset, key_of, looks_of
from latentseg.text.vocabulary import concept_named
from latentseg.training.pack import PackedScan
from latentseg.training.tumor.lesion_sites import tumor_of
from latentseg.training.tumor.samples import Samples, is_kept

SLICES, SLAB = 64, 8  # of a scan, and how many go through a network at a time
SURE = 0.999  # of a normal distribution, where no alarm is allowed
LONG, FEWEST = 8, 4  # looks at an organ in a scan, and number of such scans by which scans are judged


class Judges(NamedTuple):
    """What scores slices: trained networks on frozen ones, and how prompts are read.

    Attributes:
        network: Trained.
        frozen: Of the backbone.
        queries: Reads prompts.
        picture: What lesions are told by as well; None where nothing looks at the picture alone.
    """

    network: TumorNetwork
    frozen: FrozenStages
    queries: Queries
    picture: PictureNetwork | None = None


class Alarms(NamedTuple):
    """Shares of healthy single slices, and of healthy scans, that may still be suspected."""

    slices: float
    scans: float


class Slices(NamedTuple):
    """Slices ``(n, 1, H, W)`` in [-1, 1] with their labels ``(n, H, W)``, modality, and distance."""

    images: Tensor
    labels: NDArray[np.uint8]
    modality: str
    step_mm: float


class Shown(NamedTuple):
    """A person, the scores of the slices of a scan that show an organ, and how many of them count."""

    person: str
    scores: list[float]
    looks: float


def calibrate_organs(
    judges: Judges, samples: Samples, *, views: Mapping[str, str], alarms: Alarms
) -> dict[str, list[Shown]]:
    """Set what the score is lowered by for tumors of each organ that is found in scans.

    Args:
        judges: Whose offsets are replaced.
        samples: Healthy scans are read from their pack.
        views: Part of the body that the scans of a data set show.
        alarms: What may still be suspected.

    Returns:
        Scores of healthy scans, by organ and modality, as they were before.
    """
    network, hosts = judges.network, samples.options.hosts
    organs = {*network.organs.trusted, *hosts.tissues.values()}
    organs = organs & {*hosts.organs} if hosts.organs else organs
    shown: dict[str, list[Shown]] = {}
    for part in sorted(set(views.values())):
        asked = [o for o in sorted(organs) if tumor_of(o) and PART_OF.get(concept_named(o).region) == part]
        scans = healthy_scans(samples, {source for source, seen in views.items() if seen == part})
        for scan in scans if asked else ():
            slices = slices_of(samples, scan)
            unseen = set(asked) - set(network.organs.trusted)
            away = dict.fromkeys(asked) | distances(scan, slices.labels, unseen)
            for organ, scores in organ_scores(judges, slices, away).items():
                one = Shown(person_of(scan), scores, looks_of(len(scores), slices.step_mm))
                shown.setdefault(key_of(organ, scan.modality), []).append(one)
    network.views.by_organ = {key: offset_of(found, alarms) for key, found in shown.items()}
    return shown


def offset_of(shown: Sequence[Shown], alarms: Alarms) -> Offset:
    """What scores are lowered by so that few healthy slices, and few whole scans, pass 0.

    Of single slices so many pass, every person counting the same. The highest scores of scans are taken for
    normally distributed. Between a slice and a scan the offset grows with the logarithm of their number; it
    falls where scans, whose scores are smooth across slices, are calmer than single slices.
    """
    slices = sorted((score, one.person) for one in shown for score in one.scores)
    count = Counter(person for _, person in slices)
    below = np.cumsum([1 / count[person] for _, person in slices]) / len(count)
    single = slices[min(int(np.searchsorted(below, 1 - alarms.slices)), len(slices) - 1)][0]
    long = [one for one in shown if one.looks >= LONG]
    if len(long) < FEWEST:
        return Offset(round(single, 2))
    highest = [max(one.scores) for one in long]
    whole = mean(highest) + NormalDist().inv_cdf(min(1 - alarms.scans, SURE)) * stdev(highest)
    growth = (whole - single) / mean(math.log(one.looks) for one in long)
    return Offset(round(single, 2), round(growth, 2))


def person_of(scan: PackedScan) -> str:
    """Whose a scan is: the name of a single slice begins with the patient."""
    case = scan.case if scan.count > 1 else re.split(r"[-_](?=[^-_]*$)", scan.case)[0]
    return f"{scan.source}/{case}"


def healthy_scans(samples: Samples, sources: AbstractSet[str]) -> list[PackedScan]:
    """Scans of some data sets without a tumor that is known of: those kept from the training, if any are."""
    sound = samples.chance["sound"] > 0
    own = [scan for scan in samples.packed.scans if scan.source in sources]
    kept = [scan for scan in own if is_kept(scan, samples.options.validation)]
    return kept or [scan for scan in own if sound[scan.first]]


def slices_of(samples: Samples, scan: PackedScan) -> Slices:
    """Evenly spaced slices of a packed scan, as they are segmented."""
    places = np.linspace(0, scan.count - 1, min(SLICES, scan.count)).astype(int)
    slices = samples.packed.images[scan.first + places].astype(np.float32) / 127.5 - 1
    images = torch.from_numpy(denoised(slices) if scan.modality == "CT" else slices)[:, None]
    labels = np.asarray(samples.packed.labels[scan.first + places])
    return Slices(images, labels, scan.modality, scan.spacing_mm[0] * scan.count / len(places))


def distances(scan: PackedScan, labels: NDArray[np.uint8], organs: AbstractSet[str]) -> dict[str, Tensor]:
    """Distances from those of some organs that are labelled in a scan, as of :func:`distances_from`."""
    return {name: distances_from(labels == label) for label, name in scan.labels.items() if name in organs}


@torch.no_grad()
def organ_scores(
    judges: Judges, slices: Slices, organs: Mapping[str, Tensor | None]
) -> dict[str, list[float]]:
    """Scores of the slices that show an organ, as logits, for a tumor of each organ that is in view.

    As in a scan that is segmented, they are smooth across slices. Of organs that the network does not find,
    the distances may be given.
    """
    network, frozen, queries, picture = judges
    stages = [torch.cat(level) for level in zip(*map(frozen, slices.images.split(SLAB)), strict=True)]
    sigma = RECOMMENDED.across_mm / slices.step_mm
    told = network.organs.of_scan(stages, slices.step_mm) if network.organs.names else None
    if told and picture:
        told = picture.told_of(told, slices.images, network.organs.names)
    told = told and told.smooth(sigma)
    found: dict[str, list[float]] = {}
    for organ, labelled in organs.items():
        known = told is not None and organ in network.organs.trusted
        away = network.organs.distances(told.organs, organ) if told and known else labelled
        shown = torch.ones(len(slices.images), dtype=torch.bool)
        if away is not None:
            away = resized(away, stages[0].shape[2:])
            shown = (away < 1).flatten(1).any(1)
        if bool(shown.any()):
            texts = queries(tumor_of(organ), slices.modality).texts.expand(len(slices.images), -1, -1)
            beside = Beside(away, told and told.lesions_of(organ))
            scores = smooth(seen_of(network, stages, texts, organ=organ, beside=beside).score, sigma)
            found[organ] = scores[shown].tolist()
    return found
