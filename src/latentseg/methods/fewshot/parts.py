"""The parts of few-shot segmentation, in the order in which they work. To add one, give it a line here."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from latentseg.backbones.base import Backbone
from latentseg.methods.appearance import AppearanceOptions
from latentseg.methods.fewshot.appearance import Appearance
from latentseg.methods.fewshot.closer_look import CloserLook, CloserOptions
from latentseg.methods.fewshot.context import SupportMode
from latentseg.methods.fewshot.finer_search import FinerOptions, FinerSearch
from latentseg.methods.fewshot.matching_features import MatchingFeatures
from latentseg.methods.fewshot.matching_prior import Matching
from latentseg.methods.fewshot.nearest_example import NearestExample
from latentseg.methods.fewshot.network import Network
from latentseg.methods.fewshot.part import Part
from latentseg.methods.fewshot.scan_features import ScanFeatures
from latentseg.methods.fewshot.slices_only import SlicesOnly
from latentseg.methods.fewshot.volume_matching import VolumeMatching, VolumeOptions
from latentseg.methods.sdfsmis.compat import Compat
from latentseg.methods.sdfsmis.method import SDFSMIS


@dataclass(frozen=True)
class SegmentOptions:
    """How volumes are segmented.

    Attributes:
        compat: ``official`` reproduces the released code and nothing else, ``fixed`` repairs it and puts
            beside it what is ours.
        support_mode: ``nearest`` gives each query slice the most similar support slice, ``joint`` gives it
            all.
        threshold: Probability above which a voxel belongs to the target (``fixed`` only).
        refinement: What is done to the network's answer with the scan's own intensities (``fixed`` only);
            nothing when None.
        closer: How targets that are small in a slice are looked at again, enlarged (``fixed`` only, with
            matching features); not at all when None.
        volume: How whole scans are searched with whole scans (``fixed`` only, with matching features); slice
            by slice, each one anywhere in the body, when None.
        finer: How small targets are searched again in finer cells, where whole scans are compared; not at all
            when None.
        min_presence: Presence below which the target is reported absent and its mask is empty.
        slab: Slices that go through a network at a time; memory grows with it and not with the volume.
    """

    compat: Compat = "fixed"
    support_mode: SupportMode = "nearest"
    threshold: float = 0.5
    refinement: AppearanceOptions | None = field(default_factory=lambda: AppearanceOptions(confident=0.9))
    closer: CloserOptions | None = field(default_factory=CloserOptions)
    volume: VolumeOptions | None = field(default_factory=VolumeOptions)
    finer: FinerOptions | None = field(default_factory=FinerOptions)
    min_presence: float = 0.5
    slab: int = 8


@dataclass(frozen=True, eq=False)
class FewShotNetworks:
    """The networks of few-shot segmentation on one backbone.

    Attributes:
        sdfsmis: Those of the paper.
        fingerprint: Identifies the weights in a saved support.
        matching: Features of the matching prior, for a network that has one.
        whole_range: Whether scans are normalized from their smallest to their largest value, as the weights
            were trained.
    """

    sdfsmis: SDFSMIS
    fingerprint: str
    matching: MatchingFeatures | None = None
    whole_range: bool = False

    @property
    def backbone(self) -> Backbone:
        """The frozen autoencoder."""
        return self.sdfsmis.backbone

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.sdfsmis.device


def parts_of(networks: FewShotNetworks, options: SegmentOptions) -> tuple[Part, ...]:
    """The parts that the options ask for; by the released rules the paper's alone."""
    network = Network(networks.sdfsmis, slab=options.slab, compat=options.compat)
    if options.compat == "official":
        return NearestExample(), network
    matching, slab = networks.matching, options.slab
    refinement = Appearance(options.refinement) if options.refinement else None
    ours: list[Part | None] = [NearestExample(), network, refinement]
    if matching:
        closer = options.closer
        by_slices: list[Part] = [
            ScanFeatures(matching),
            NearestExample(),
            Matching(matching, slab=slab),
            network,
        ]
        if closer:
            by_slices.append(CloserLook(matching, closer, refine=refinement))
        if volume := options.volume:
            by_slices = [SlicesOnly(part, edge=matching.grid, slab=slab) for part in by_slices]
        whole = VolumeMatching(matching, volume) if volume else None
        finer = FinerSearch(matching, options.finer) if volume and options.finer else None
        ours = [whole, finer, *by_slices, refinement]
    return tuple(part for part in ours if part)
