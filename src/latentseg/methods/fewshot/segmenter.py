"""Few-shot segmentation of volumes: support and scan are encoded once, then every target is cheap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.backbones.base import Backbone
from latentseg.errors import GeometryError, ModelError, UsageError
from latentseg.imaging import Canonical, Volume, fit_square, normalize, to_canonical
from latentseg.imaging.components import large_in_volume, largest_per_slice
from latentseg.methods.fewshot.along_body import (
    FEWEST,
    AxisOptions,
    SupportAxis,
    chance_along_axis,
    seen_length,
    slice_looks,
    slices_along_axis,
)
from latentseg.methods.fewshot.closer_look import CloserOptions, CloserSupport
from latentseg.methods.fewshot.context import SupportContext, SupportMode
from latentseg.methods.fewshot.encoded import Encoded
from latentseg.methods.fewshot.groups import all_placed, nearest, signatures
from latentseg.methods.fewshot.matching import MatchingSupport, prior_logits, scan_prior
from latentseg.methods.fewshot.matching_features import MatchingFeatures
from latentseg.methods.fewshot.support import Support, check_slices, is_flat
from latentseg.methods.refinement import RefinementOptions, refine
from latentseg.methods.results import Segmentation, Segmentations, check_names
from latentseg.methods.sdfsmis.compat import Compat
from latentseg.methods.sdfsmis.condition import ConditionTranslator, FeatureSource, masked_features
from latentseg.methods.sdfsmis.mask_decoding import decoded_uint8, mask_images, official_masks, probabilities
from latentseg.methods.sdfsmis.network import FewShotUNet
from latentseg.methods.sdfsmis.query_enhancement import Prototypes, enhance, prototypes

Progress = Callable[[int, int, str], None]
PRESENCE_PIXELS = 40  # the target is as present as its 40 most probable pixels on one slice (of 65536)


@dataclass(frozen=True)
class SegmentOptions:
    """How volumes are segmented.

    Attributes:
        compat: ``official`` reproduces the released code, ``fixed`` repairs it.
        support_mode: ``nearest`` gives each query slice the most similar support slice, ``joint`` gives it
            all.
        threshold: Probability above which a voxel belongs to the target (``fixed`` only).
        refinement: What is done to the network's answer with the scan's own intensities (``fixed`` only);
            nothing when None.
        closer: How targets that are small in a slice are looked at again, enlarged (``fixed`` only, with
            matching features); not at all when None.
        axis: How a scan is laid beside the support's to find the slices that can show the target (``fixed``
            only, with matching features); all are searched when None.
        min_presence: Presence below which the target is reported absent and its mask is empty.
        slab: Slices that go through a network at a time; memory grows with it and not with the volume.
    """

    compat: Compat = "fixed"
    support_mode: SupportMode = "nearest"
    threshold: float = 0.5
    refinement: RefinementOptions | None = field(default_factory=RefinementOptions)
    closer: CloserOptions | None = field(default_factory=CloserOptions)
    axis: AxisOptions | None = field(default_factory=AxisOptions)
    min_presence: float = 0.5
    slab: int = 8


@dataclass(frozen=True, eq=False)
class FewShotParts:
    """The networks of SD-FSMIS on one backbone.

    Attributes:
        backbone: The frozen autoencoder.
        network: The UNet with two entrances.
        translator: From features to a condition token.
        features: Frozen features the condition is made of.
        mask_head: A light decoder of mask latents ``(B, C, h, w)`` to logits ``(B, 1, H, W)``; without one,
            masks are decoded by the autoencoder, as published.
        fingerprint: Identifies the weights in a saved support.
        matching: Features of the matching prior, for a network that has one.
    """

    backbone: Backbone
    network: FewShotUNet
    translator: ConditionTranslator
    features: FeatureSource
    mask_head: Callable[[Tensor], Tensor] | None
    fingerprint: str
    matching: MatchingFeatures | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan after the part of the work that does not depend on the target.

    Attributes:
        scan: The scan.
        canonical: Its axial slices and the way back.
        undo: From ``(S, 256, 256)`` to the slices' own size.
        encoded: Its slices as the networks take them.
        signature: ``(S, D)``, see :class:`SupportContext`.
    """

    scan: Volume
    canonical: Canonical
    undo: Callable[[NDArray[Any]], NDArray[Any]]
    encoded: Encoded
    signature: Tensor


class FewShotSegmenter:
    """SD-FSMIS as a segmenter: ``prepare`` a scan once, ``predict`` each target, or simply call it."""

    def __init__(self, parts: FewShotParts, *, options: SegmentOptions | None = None) -> None:
        self.parts = parts
        self.options = options or SegmentOptions()

    def __call__(
        self,
        scan: Volume,
        targets: Sequence[Support | SupportContext],
        *,
        on_progress: Progress | None = None,
    ) -> Segmentations:
        """Segment every target; supports that come more than once should be encoded by the caller.

        Args:
            scan: Any volume; a picture is a volume of one slice.
            targets: Supports, or contexts from :meth:`encode_support`.
            on_progress: Called with ``(done, total, stage)``.

        Raises:
            UsageError: No target, or two of one name.
            InputError: A scan that cannot be segmented.
            GeometryError: A 2-D image, and a target that was shown in volumes.
        """
        names = [target.name for target in targets]
        check_names(names)
        for target in targets:
            check_dimensions(scan, target)
        report = on_progress or (lambda *_: None)
        report(0, len(names) + 1, "reading the scan")
        prepared = self.prepare(scan)
        results = Segmentations()
        for done, target in enumerate(targets, start=1):
            report(done, len(names) + 1, target.name)
            results[target.name] = self.predict(prepared, target)
        report(len(names) + 1, len(names) + 1, "done")
        return results

    def prepare(self, scan: Volume) -> Prepared:
        """Encode a scan: canonical slices, latents, signatures.

        Raises:
            InputError: A constant scan, or one with values that are no numbers.
            GeometryError: Axial slices too narrow to be segmented.
        """
        canonical = to_canonical(scan)
        check_slices(canonical, where=str(scan.source or "the scan"))
        values = normalize(canonical.slices, modality=scan.modality, where=str(scan.source or "the scan"))
        size = self.parts.backbone.image_size
        slices, undo = fit_square(values, size, pixel_mm=canonical.spacing_mm[1:])
        images = torch.from_numpy(slices)[:, None]
        return Prepared(scan, canonical, undo, self.encode_slices(images), signatures(images))

    def encode_slices(self, images: Tensor) -> Encoded:
        """What queries need of slices ``(S, 1, H, W)`` in [-1, 1]."""
        matching, latents = self.parts.matching, self.encode_images(images)
        if matching is None:
            return Encoded(images, latents)
        features, looks = [], []
        for slab in images.split(self.options.slab):
            plain = matching.plain(slab)
            features.append(matching.adapted(plain).half())
            looks.append(slice_looks(plain))
        return Encoded(images, latents, torch.cat(features), torch.cat(looks))

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Latents ``(S, C, h, w)`` of slices ``(S, 1, H, W)`` in [-1, 1]."""
        return torch.cat([self.parts.backbone.encode(slab) for slab in images.split(self.options.slab)])

    @torch.no_grad()
    def encode_support(self, support: Support) -> SupportContext:
        """Encode a support, once for any number of scans."""
        parts, compat, mode = self.parts, self.options.compat, self.options.support_mode
        images = torch.from_numpy(support.images)[:, None]
        masks = torch.from_numpy(support.masks.astype(np.float32))
        shots = len(support) if mode == "joint" else 1
        z_img, z_mask = self.encode_images(images), self.encode_images(mask_images(masks))
        features = parts.features(images, compat=compat)
        tokens = parts.translator(masked_features(features, masks, shots=shots, compat=compat))
        cache = parts.network.encode_support(torch.cat([z_img, z_mask], 1), tokens, shots=shots)
        fg, bg = prototypes(z_img, masks, compat=compat).over_shots(shots)
        signature = signatures(images).unflatten(0, (-1, shots)).mean(1)
        found, near = None, None
        if parts.matching:
            found = MatchingSupport.of(parts.matching(images), masks, shots=shots)
        if parts.matching and self.options.closer:
            cut = self.options.closer
            near = CloserSupport.of(images, masks, parts.matching, shots=shots, options=cut)
        about = (support.name, cache, fg, bg, signature, mode, parts.fingerprint)
        axes: tuple[SupportAxis, ...] = ()
        if parts.matching and self.options.axis:
            axes = tuple(
                SupportAxis.of(scan, parts.matching, slab=self.options.slab) for scan in support.scans
            )
        return SupportContext(
            *about, flat=support.flat, compat=compat, matching=found, closer=near, axes=axes
        )

    def check(self, target: Support | SupportContext) -> None:
        """Refuse a saved support that these networks cannot use.

        Raises:
            ModelError: It was encoded by other weights.
            UsageError: It was encoded with the other ``compat``.
        """
        if isinstance(target, Support):
            return
        if target.model != self.parts.fingerprint:
            raise ModelError(
                f"the support {target.name!r} was encoded by other weights ({target.model})",
                fix=f"encode it again with {self.parts.fingerprint}",
            )
        if target.compat != self.options.compat:
            what = f"the support {target.name!r} was encoded with compat={target.compat!r}"
            raise UsageError(what, fix=f"encode it again with compat={self.options.compat!r}")

    def predict(self, prepared: Prepared, target: Support | SupportContext) -> Segmentation:
        """Segment one target in a prepared scan.

        Raises:
            GeometryError: A 2-D image, and a target that was shown in volumes.
            ModelError: A saved support of other weights.
            UsageError: A saved support of the other ``compat``.
        """
        check_dimensions(prepared.scan, target)
        context = target if isinstance(target, SupportContext) else self.encode_support(target)
        self.check(context)
        mask = None
        if self.options.compat == "official":
            group = nearest(prepared.signature, context)
            chance, mask = self.official_slices(prepared.encoded, context, group)
            shown = np.ones(len(chance))
        else:
            step_mm = prepared.canonical.spacing_mm[0]
            chance, shown = self.search(prepared.encoded, context, prepared.signature, step_mm=step_mm)
        presence = presence_score(chance * shown.astype(np.float32)[:, None, None])
        return self._on_grid(prepared, context.name, chance, mask, presence)

    @torch.no_grad()
    def mask_latents(
        self, query: Encoded, context: SupportContext, group: Tensor | None, prior: Tensor | None = None
    ) -> Tensor:
        """``z_m`` ``(B, C, h, w)``, one evaluation of the network for ``B`` query slices."""
        fg_bg = Prototypes(context.fg, context.bg)
        x = enhance(query.latents, *fg_bg, compat=self.options.compat, group=group)
        inputs = x if prior is None else torch.cat([x, prior], 1)
        return self.parts.network.segment(inputs, context.cache, group=group)

    def search(
        self, query: Encoded, context: SupportContext, signature: Tensor, *, step_mm: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Search a whole scan where it can show the target.

        Returns:
            Probability ``(S, H, W)``, 0 on slices that are not searched, and how much each slice may
            contribute to the presence of the target, ``(S,)``.
        """
        options, shown = self.options.axis, np.ones(len(query.images))
        group = nearest(signature, context)
        if options is None or query.looks is None or not context.axes:
            return self.probability_slices(query, context, group), shown
        shown = chance_along_axis(query.looks, context.axes, step_mm=step_mm, options=options)
        if group is not None and len(group) >= FEWEST and all_placed(context):
            beside = slices_along_axis(query.looks, context.axes, step_mm=step_mm, options=options)
            group = nearest(signature, context, among=beside)
        chance = np.zeros((len(shown), *query.images.shape[2:]), np.float32)
        at = torch.from_numpy(shown >= options.certain)
        if bool(at.any()):
            own = None if group is None else group[at]
            chance[at.numpy()] = self.probability_slices(query[at], context, own)
        return chance, shown * seen_length(shown, context.axes, step_mm=step_mm, options=options)

    @torch.no_grad()
    def probability_slices(
        self, query: Encoded, context: SupportContext, group: Tensor | None
    ) -> NDArray[np.float32]:
        """Probability ``(S, H, W)`` of the query slices of one scan."""
        out = []
        for slab, own, prior in self._slabs(query, context, group):
            z_mask = self.mask_latents(slab, context, own, prior)
            out.append(self._probability(z_mask, prior).float().numpy())
        chance, matching = np.concatenate(out), self.parts.matching
        found = self._refined(query.images, chance)
        if not (context.closer and matching and self.options.closer):
            return found
        chance = context.closer.look(query.images, chance, found, features=matching, group=group)
        return self._refined(query.images, chance)

    def _refined(self, images: Tensor, chance: NDArray[np.float32]) -> NDArray[np.float32]:
        """The probability ``(S, H, W)`` with what the scan itself says."""
        refinement = self.options.refinement
        return refine(images[:, 0].numpy(), chance, options=refinement) if refinement else chance

    def _probability(self, z_mask: Tensor, prior: Tensor | None) -> Tensor:
        """Probability ``(B, H, W)`` of mask latents."""
        if self.parts.mask_head is None:
            return probabilities(self.parts.backbone.decode(z_mask))
        logits = self.parts.mask_head(z_mask)
        if prior is not None:
            logits = logits + prior_logits(prior, logits.shape[-1])
        return logits.sigmoid()[:, 0]

    @torch.no_grad()
    def official_slices(
        self, query: Encoded, context: SupportContext, group: Tensor | None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Probability and mask ``(S, H, W)`` by the released rules; the threshold depends on all slices."""
        found = [
            self.mask_latents(slab, context, *rest) for slab, *rest in self._slabs(query, context, group)
        ]
        rgb = np.concatenate([decoded_uint8(self.parts.backbone.decode_rgb(z_mask)) for z_mask in found])
        return rgb.mean(-1, dtype=np.float32) / 255, largest_per_slice(official_masks(rgb))

    def _slabs(
        self, query: Encoded, context: SupportContext, group: Tensor | None
    ) -> Iterator[tuple[Encoded, Tensor | None, Tensor | None]]:
        """Some query slices at a time, the support group and the matching prior of each."""
        prior, size = None, self.options.slab
        if query.features is not None and context.matching is not None:
            prior = scan_prior(query.features, context.matching, group=group, slab=size)
        for start in range(0, len(query.latents), size):
            at = slice(start, start + size)
            yield query[at], None if group is None else group[at], None if prior is None else prior[at]

    def _on_grid(
        self,
        prepared: Prepared,
        name: str,
        chance: NDArray[np.float32],
        mask: NDArray[np.bool_] | None,
        presence: float,
    ) -> Segmentation:
        """Bring slices ``(S, 256, 256)`` to the scan's grid, and decide what is there."""
        probability = prepared.undo(chance).clip(0, 1)
        if mask is not None:
            inside = prepared.undo(mask).astype(bool)
        elif presence < self.options.min_presence:
            inside = np.zeros(probability.shape, bool)
        else:
            inside = large_in_volume(probability >= self.options.threshold)
        restore = prepared.canonical.restore
        return Segmentation(name, prepared.scan, restore(inside), restore(probability), presence)


def check_dimensions(scan: Volume, target: Support | SupportContext) -> None:
    """Refuse a 2-D image, which knows neither its plane nor its scale, for a target shown in volumes.

    Raises:
        GeometryError: The scan is a 2-D image, the support is not.
    """
    if is_flat(scan) and not target.flat:
        raise GeometryError(
            f"the scan is a 2-D image and the support {target.name!r} was shown in volumes",
            where=str(scan.source or "the scan"),
            fix="give a support drawn on 2-D images, or save the image as a volume of one slice",
        )


def presence_score(chance: NDArray[np.float32]) -> float:
    """Mean of the most probable pixels of the most probable slice of ``(S, H, W)``."""
    flat = chance.reshape(len(chance), -1)
    best = np.partition(flat, -PRESENCE_PIXELS, axis=1)[:, -PRESENCE_PIXELS:]
    return float(best.mean(1).max())
