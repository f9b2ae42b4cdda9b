"""Few-shot segmentation of volumes: support and scan are encoded once, then every target is cheap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from latentseg.errors import GeometryError, ModelError, UsageError
from latentseg.imaging import Volume
from latentseg.imaging.components import large_in_volume
from latentseg.imaging.network_input import square_slices
from latentseg.methods.base import Segmenter
from latentseg.methods.fewshot.context import SupportContext
from latentseg.methods.fewshot.part import EncodedScan, Examples, Part, Search
from latentseg.methods.fewshot.parts import FewShotNetworks, SegmentOptions, parts_of
from latentseg.methods.fewshot.prepared import Found, PreparedScan, presence_of
from latentseg.methods.fewshot.support import Support
from latentseg.methods.fewshot.support_inputs import as_supports
from latentseg.methods.fewshot.support_masks import is_flat
from latentseg.methods.log_odds import probability
from latentseg.methods.results import Segmentation


class FewShotSegmenter(Segmenter[Support | SupportContext, PreparedScan]):
    """Segments what examples show: ``prepare`` a scan once, ``predict`` each target, or simply call it.

    Targets are supports, or contexts from :meth:`encode`; supports that come more than once should be
    encoded by the caller.

    Args:
        networks: Of SD-FSMIS, and beside it.
        options: See there.
        parts: What is done, in order; what the options ask for when left out.

    Example:
        >>> liver = Support.from_files([("a.nii.gz", "a_mask.nii.gz")], name="liver")
        >>> load("fewshot")(read("b.nii.gz"), liver)["liver"].volume_ml
    """

    def __init__(
        self,
        networks: FewShotNetworks,
        *,
        options: SegmentOptions | None = None,
        parts: Sequence[Part] | None = None,
    ) -> None:
        self.networks = networks
        self.options: SegmentOptions = options or SegmentOptions()
        self.parts = tuple(parts_of(networks, self.options) if parts is None else parts)
        self.fingerprint = networks.fingerprint

    def without(self, *names: str) -> FewShotSegmenter:
        """The same segmenter without some of its parts, for ablations and baselines.

        Raises:
            UsageError: It has no part of that name.
        """
        known = [part.name for part in self.parts]
        for name in names:
            if name not in known:
                raise UsageError(f"there is no part {name!r}", fix=f"choose from {', '.join(known)}")
        parts = [part for part in self.parts if part.name not in names]
        return FewShotSegmenter(self.networks, options=self.options, parts=parts)

    def listed(self, targets: Any) -> list[Support | SupportContext]:
        """Supports as a list, from what :func:`~latentseg.methods.fewshot.support_inputs.as_supports` takes.

        Raises:
            UsageError: Something that shows nothing.
            InputError: Examples that cannot be read.
        """
        return as_supports(targets)

    def prepare(self, scan: Volume) -> PreparedScan:
        """Encode a scan, once for any number of targets.

        Raises:
            InputError: A constant scan, or one with values that are no numbers.
            GeometryError: Axial slices too narrow to be segmented.
        """
        networks = self.networks
        seen = square_slices(scan, networks.backbone.image_size, whole_range=networks.whole_range)
        encoded = self.encode_slices(seen.images, seen.spacing_mm)
        for part in self.parts:
            part.get_ready(encoded)
        return PreparedScan(seen, encoded)

    @torch.no_grad()
    def encode_slices(
        self, slices: NDArray[np.float32], spacing_mm: tuple[float, float, float]
    ) -> EncodedScan:
        """What the parts need to know of slices ``(S, H, W)`` in [-1, 1], inferior to superior."""
        images = torch.from_numpy(np.ascontiguousarray(slices, np.float32))[:, None]
        kept: dict[str, list[Tensor]] = {}
        for slab in images.split(self.options.slab):
            for part in self.parts:
                for name, tensor in part.of_scan(slab).items():
                    kept.setdefault(f"{part.name}/{name}", []).append(tensor)
        return EncodedScan(images, spacing_mm, {name: torch.cat(slabs) for name, slabs in kept.items()})

    @torch.no_grad()
    def encode(self, target: Support | SupportContext) -> SupportContext:
        """Encode a support, once for any number of scans; a context is returned as it is."""
        if isinstance(target, SupportContext):
            return target
        mode, compat = self.options.support_mode, self.options.compat
        size = self.networks.backbone.image_size
        shown = images_for(target, whole_range=self.networks.whole_range)
        images = resized(torch.from_numpy(shown)[:, None], size)
        marked = torch.from_numpy(target.masks.astype(np.float32))[:, None]
        masks = resized(marked, size, mode="nearest")[:, 0]
        examples = Examples(images, masks, len(target) if mode == "joint" else 1, target.scans)
        tensors = {
            f"{part.name}/{name}": tensor.detach().cpu()
            for part in self.parts
            for name, tensor in part.of_support(examples).items()
        }
        return SupportContext(target.name, mode, self.fingerprint, target.flat, compat, tensors)

    def check(self, target: Support | SupportContext, scan: Volume | None = None) -> None:
        """Refuse a saved support that these networks cannot use, and 2-D images where volumes were shown.

        Raises:
            ModelError: It was encoded by other weights.
            UsageError: It was encoded with the other ``compat``.
            GeometryError: The scan is a 2-D image, and the target was shown in volumes.
        """
        if scan is not None and is_flat(scan) and not target.flat:
            raise GeometryError(
                f"the scan is a 2-D image and the support {target.name!r} was shown in volumes",
                where=str(scan.source or "the scan"),
                fix="give a support drawn on 2-D images, or save the image as a volume of one slice",
            )
        if isinstance(target, Support):
            return
        if target.model != self.fingerprint:
            raise ModelError(
                f"the support {target.name!r} was encoded by other weights ({target.model})",
                fix=f"encode it again with {self.fingerprint}",
            )
        if target.compat != self.options.compat:
            what = f"the support {target.name!r} was encoded with compat={target.compat!r}"
            raise UsageError(what, fix=f"encode it again with compat={self.options.compat!r}")

    def predict(self, prepared: PreparedScan, target: Support | SupportContext) -> Segmentation:
        """Segment one target in a prepared scan.

        Raises:
            GeometryError: A 2-D image, and a target that was shown in volumes.
            ModelError: A saved support of other weights.
            UsageError: A saved support of the other ``compat``.
        """
        context = self.encode(target)
        self.check(context, prepared.scan)
        found = self.search(prepared.encoded, context)
        presence = presence_of(found)
        seen = prepared.seen
        fine = np.asarray(seen.undo(found.chance)).clip(0, 1)
        mask = None if found.mask is None else np.asarray(seen.undo(found.mask)).astype(bool)
        mask = self.decide(fine, presence) if mask is None else mask
        restore = seen.canonical.restore
        why = "" if mask.any() else found.reason
        about = (context.name, prepared.scan, restore(mask), restore(fine), presence)
        return Segmentation(*about, reason=why)

    @torch.no_grad()
    def search(self, scan: EncodedScan, context: SupportContext) -> Found:
        """Let every part look for one target on all slices of a scan."""
        search, searched = Search.everywhere(scan), scan
        for part in self.parts:
            if len(search.at) < len(searched):
                searched = scan[search.at]
            if len(searched):
                search = part(search, searched, context.of(part.name))
        chance = np.zeros((len(scan), *scan.images.shape[2:]), np.float32)
        chance[search.at.numpy()] = probability(search.log_odds).numpy()
        in_view = (search.in_view * search.likely).astype(np.float32)
        return Found(chance, in_view, search.mask, search.reason)

    def decide(self, chance: NDArray[np.float32], presence: float) -> NDArray[np.bool_]:
        """The mask ``(S, H, W)`` of a probability: empty where the target is absent, without small parts."""
        if presence < self.options.min_presence:
            return np.zeros(chance.shape, bool)
        return large_in_volume(chance >= self.options.threshold)


def images_for(support: Support, *, whole_range: bool) -> NDArray[np.float32]:
    """The images ``(n, 256, 256)`` of a support in the intensities that weights were trained with.

    Raises:
        UsageError: They want the whole range of a scan, and the support was made without its scan.
    """
    if not whole_range:
        return support.images
    if support.ranged is None:
        what = f"these weights want scans from their smallest to their largest value, and {support!r} is not"
        raise UsageError(what, fix="make it with Support.from_files or from_volumes, or set its `ranged`")
    return support.ranged


def resized(images: Tensor, size: int, *, mode: str = "bilinear") -> Tensor:
    """Examples ``(n, 1, H, W)`` at the size of a backbone's slices; most have it."""
    if images.shape[2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode=mode, antialias=mode != "nearest")
