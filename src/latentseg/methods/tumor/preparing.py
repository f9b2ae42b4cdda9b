"""Scans before any prompt: how they are encoded, and which networks look at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from latentseg.imaging.network_input import NetworkInput
from latentseg.methods.diffugts.reconstructions import Reconstructions
from latentseg.methods.tumor.blocks import items_of
from latentseg.methods.tumor.lung_field import LungField, lung_field
from latentseg.methods.tumor.negative import SOFT_TISSUE, is_seen_as_negative, negative
from latentseg.methods.tumor.networks import Encoded, PreparedScan, TumorNetworks
from latentseg.methods.tumor.options import TumorOptions
from latentseg.methods.tumor.organs import CAVITY
from latentseg.methods.tumor.queries import Query
from latentseg.methods.tumor.told import Told


def prepared_scan(
    networks: TumorNetworks, seen: NetworkInput, options: TumorOptions, *, lungs: LungField | None = None
) -> PreparedScan:
    """A scan, or its lungs, that is encoded when it is first needed."""
    images = items_of(seen)
    return PreparedScan(
        networks,
        seen,
        images,
        encode=lambda: encoded(networks, seen, images, options),
        look_for_organs=lambda stages: organs_of(networks, images, stages, seen.spacing_mm[0], options),
        lungs=lungs,
    )


@torch.no_grad()
def encoded(networks: TumorNetworks, seen: NetworkInput, images: Tensor, options: TumorOptions) -> Encoded:
    """What the frozen networks say of slices or of a block."""
    coded = [networks.stages.with_latents(slab) for slab in images.split(options.slab)]
    slabs, latents = zip(*coded, strict=True)
    stages = [torch.cat([stage.half() for stage in level]) for level in zip(*slabs, strict=True)]
    return Encoded(stages, Reconstructions(networks.backbone, images, latents[0] if seen.block else None))


@torch.no_grad()
def organs_of(
    networks: TumorNetworks, images: Tensor, stages: Sequence[Tensor], step_mm: float, options: TumorOptions
) -> Told | None:
    """Chances of organs and lesions, smooth across slices; None where none are known or asked for."""
    organs = networks.network.organs
    if not (organs.names and options.organs):
        return None
    told, picture = organs.of_scan(stages, step_mm), networks.picture
    if picture:
        told = picture.told_of(told, images, organs.names)
    return told.smooth(options.across_mm / step_mm)


def alone(
    prepared: PreparedScan, query: Query, networks: TumorNetworks, options: TumorOptions
) -> PreparedScan:
    """The scan as the prompt has it seen: by networks of their own, as its negative, or as it is."""
    part = networks.part_of(query, prepared.scan.modality)
    if not part and is_seen_as_negative(prepared, query):
        part = SOFT_TISSUE
    if not (part and options.organs):
        return prepared
    if part not in prepared.alone:
        prepared.alone[part] = seen_alone(prepared, part, networks.alone.get(part, networks), options)
    return prepared.alone[part] or prepared


def seen_alone(
    prepared: PreparedScan, part: str, networks: TumorNetworks, options: TumorOptions
) -> PreparedScan | None:
    """The same scan for other networks, of lungs what there is to see of them; None without any."""
    if part == CAVITY:
        lungs = lung_field(prepared.scan, networks.backbone.image_size)
        return lungs and prepared_scan(networks, lungs.seen, options, lungs=lungs)
    if part == SOFT_TISSUE:
        return prepared_scan(networks, negative(prepared.seen), options)

    def look_for_organs(stages: Sequence[Tensor]) -> Told | None:
        return organs_of(networks, prepared.images, stages, prepared.step_mm, options)

    return replace(
        prepared,
        networks=networks,
        encode=lambda: prepared.encoded,
        look_for_organs=look_for_organs,
        alone={},
    )
