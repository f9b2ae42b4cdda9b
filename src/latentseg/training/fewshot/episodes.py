"""Episodes: two targets shown in one slice and asked for in others, from packed scans.

A target is a supervoxel (self-supervision) or, where a pack allows it, a labelled structure.
Support and queries are adjacent slices of one scan, the same slice, or, for labels, slices of two patients.
Their geometry and their contrast are drawn independently; without that nothing carries over from CT to MR.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from latentseg.errors import InputError
from latentseg.training.augment import Geometry, recolor, sampling_grid, warp
from latentseg.training.pack import Pack, PackedScan
from latentseg.training.painting import paint
from latentseg.training.shares import slice_chances

MAPS = ("supervoxels", "labels")


class EpisodeOptions(BaseModel, extra="forbid", frozen=True):
    """How episodes are drawn.

    Attributes:
        scenes: Groups of slices per batch; a scene's slices are encoded once and shared by its targets.
        targets: Targets per scene.
        queries: Query slices per scene; every target is asked for in every query.
        labelled: Share of scenes whose targets are labelled structures.
        other_patient: Share of labelled scenes whose queries come from another patient.
        painted: Share of supervoxel scenes whose images are painted instead of taken from the scan.
        one_look: Share of scenes whose slices all have one intensity curve, as within one modality.
        reach_mm: Largest distance between support and query within a scan.
        elsewhere: Share of scenes whose queries come from anywhere, so that most do not hold the target:
            any slices of a scan of the data set for labels, far ones of the same scan for supervoxels.
        far_mm: Distance from which on a supervoxel is taken to be absent.
        min_area: Fewest pixels of a target in the support.
        merge: Probability that a supervoxel is merged with others of its slice that look like it.
        shares: Share of scenes by data set; the others divide the rest by the root of their number of slices.
    """

    scenes: int = 4
    targets: int = 2
    queries: int = 2
    labelled: float = 0.35
    other_patient: float = 0.7
    painted: float = 0.15
    one_look: float = 0.5
    reach_mm: float = 30.0
    elsewhere: float = 0.25
    far_mm: float = 80.0
    min_area: int = 80
    merge: float = 0.3
    shares: dict[str, float] = {}
    geometry: Geometry = Geometry()


class EpisodeBatch(NamedTuple):
    """A batch of ``P`` scenes with ``T`` targets and ``Q`` queries each, ``S`` pixels wide.

    Attributes:
        support_images: ``(P, 1, S, S)`` in [-1, 1].
        query_images: ``(P * Q, 1, S, S)``.
        support_masks: ``(P * T, S, S)`` in {0, 1}, targets of a scene next to each other.
        query_masks: ``(P * T * Q, S, S)``, queries of a target next to each other.
    """

    support_images: Tensor
    query_images: Tensor
    support_masks: Tensor
    query_masks: Tensor


class Scene(NamedTuple):
    """Slices of one scene, the support first: images, id maps, the ids asked for, whether to paint them."""

    images: NDArray[np.uint8]
    maps: NDArray[np.int64]
    targets: list[NDArray[np.int64]]
    painted: bool


class Episodes:
    """Draws batches of episodes from a pack.

    Raises:
        InputError: The pack has no supervoxels, or nothing large enough of a kind that is asked for.
    """

    def __init__(self, packed: Pack, options: EpisodeOptions) -> None:
        if packed.supervoxels is None:
            raise InputError(
                "the pack has no supervoxels",
                where=str(packed.folder),
                fix="run `latentseg train supervoxels` first",
            )
        self.packed, self.options = packed, options
        self.areas = {name: _areas(getattr(packed, name), packed.scans, options.min_area) for name in MAPS}
        self.partners = _partners(packed.scans, self.areas["labels"])
        self.scan_of = np.repeat(np.arange(len(packed.scans)), [scan.count for scan in packed.scans])
        sources = np.array([scan.source for scan in packed.scans])[self.scan_of]
        self.chance = {
            name: slice_chances(sources, np.array([bool(ids) for ids in self.areas[name]]), options.shares)
            for name in MAPS
        }
        for name, share in (("labels", options.labelled), ("supervoxels", 1 - options.labelled)):
            if share > 0 and not self.chance[name].any():
                raise InputError(
                    f"no slice has {name} of {options.min_area} pixels or more",
                    where=str(packed.folder),
                    fix="change `labelled` or `min_area` of the episodes, or pack other scans",
                )

    def draw(self, rng: np.random.Generator, *, ease: float = 0.0) -> EpisodeBatch:
        """One batch; a function of the arguments alone.

        Args:
            rng: Source of all draws.
            ease: In [0, 1]; at 1 all queries are the support's own slice in the support's own contrast, which
                is how attention first learns to look for what is marked.
        """
        scenes = [self._scene(rng, ease) for _ in range(self.options.scenes)]
        slices = len(scenes[0].images)
        images = torch.tensor(np.concatenate([scene.images for scene in scenes]), dtype=torch.float32)[
            :, None
        ]
        maps = torch.tensor(np.concatenate([scene.maps for scene in scenes]))
        images = images / 127.5 - 1
        painted = torch.tensor([scene.painted for scene in scenes]).repeat_interleave(slices)
        if bool(painted.any()):
            images[painted] = paint(_compact(maps[painted]), rng)
        grid = sampling_grid(rng, len(images), images.shape[-1], self.options.geometry)
        contrasts = torch.arange(len(images)).unflatten(0, (-1, slices))
        alike = torch.tensor(rng.random(len(scenes)) < max(self.options.one_look, ease))
        contrasts[alike] = contrasts[alike][:, :1]
        images = recolor(warp(images, grid), rng, contrasts=contrasts.flatten())
        masks = self._masks(maps, scenes)
        masks = (warp(masks, grid) > 0.5).float()
        images, masks = images.unflatten(0, (-1, slices)), masks.unflatten(0, (-1, slices))
        return EpisodeBatch(
            images[:, 0],
            images[:, 1:].flatten(0, 1),
            masks[:, 0].flatten(0, 1),
            masks[:, 1:].transpose(1, 2).flatten(0, 2),
        )

    def _masks(self, maps: Tensor, scenes: list[Scene]) -> Tensor:
        """Masks ``(P * (1 + Q), T, S, S)`` of the scenes' targets."""
        per_scene = maps.unflatten(0, (len(scenes), -1))
        rows = [
            torch.stack([torch.isin(ids, torch.tensor(target)) for target in scene.targets], 1)
            for ids, scene in zip(per_scene, scenes, strict=True)
        ]
        return torch.cat(rows).float()

    def _scene(self, rng: np.random.Generator, ease: float) -> Scene:
        options = self.options
        name = "labels" if rng.random() < options.labelled else "supervoxels"
        support = int(rng.choice(len(self.scan_of), p=self.chance[name]))
        present = self.areas[name][support]
        ids = rng.choice(list(present), options.targets)
        queries = self._queries(rng, support, name, int(ids[0]), ease)
        index = np.array([support, *queries])
        maps = getattr(self.packed, name)[np.sort(index)][np.argsort(np.argsort(index))].astype(np.int64)
        images = self.packed.images[np.sort(index)][np.argsort(np.argsort(index))]
        merge = name == "supervoxels"
        targets = [self._target(rng, int(i), images[0], maps[0], merge) for i in ids]
        return Scene(images, maps, targets, merge and rng.random() < options.painted)

    def _target(
        self,
        rng: np.random.Generator,
        label: int,
        image: NDArray[np.uint8],
        ids: NDArray[np.int64],
        merge: bool,
    ) -> NDArray[np.int64]:
        """The ids of one target: a supervoxel alone, or with neighbors of a like mean (organs get split)."""
        if not merge or rng.random() >= self.options.merge:
            return np.array([label])
        counts = np.bincount(ids.ravel())
        mean = np.bincount(ids.ravel(), image.ravel().astype(float)) / np.maximum(counts, 1)
        alike = np.flatnonzero((counts > 0) & (np.abs(mean - mean[label]) < rng.uniform(5, 25)))
        row, column = (axis.mean() for axis in np.nonzero(ids == label))
        near = [int(i) for i in alike if i > 0 and (i == label or _near(ids == i, row, column, 60))]
        return np.array(near or [label], np.int64)

    def _queries(
        self, rng: np.random.Generator, support: int, name: str, label: int, ease: float
    ) -> list[int]:
        """Slices to ask in: near ones of the same scan, or another patient's that hold the first target."""
        scan = self.packed.scans[self.scan_of[support]]
        if rng.random() < self.options.elsewhere * (1 - ease):
            anywhere = self._elsewhere(rng, support, name)
            if len(anywhere):
                return [int(i) for i in rng.choice(anywhere, self.options.queries)]
        partners = self.partners.get((scan.source, label), []) if name == "labels" else []
        others = [i for i in partners if self.scan_of[i] != self.scan_of[support]]
        if others and rng.random() < self.options.other_patient * (1 - ease):
            return [int(i) for i in rng.choice(others, self.options.queries)]
        reach = min(int((1 - ease) * self.options.reach_mm / scan.spacing_mm[0]), 10)
        near = np.arange(max(support - reach, scan.first), min(support + reach + 1, scan.first + scan.count))
        holds = [i for i in near if label in self.areas[name][i]]
        pool = holds if holds and rng.random() < 0.9 else near
        return [int(i) for i in rng.choice(pool, self.options.queries)]

    def _elsewhere(self, rng: np.random.Generator, support: int, name: str) -> NDArray[np.integer]:
        scan = self.packed.scans[self.scan_of[support]]
        if name == "labels":
            alike = [other for other in self.packed.scans if other.source == scan.source]
            scan = alike[int(rng.integers(len(alike)))]
            return np.arange(scan.first, scan.first + scan.count)
        index = np.arange(scan.first, scan.first + scan.count)
        far = np.abs(index - support) * scan.spacing_mm[0] >= self.options.far_mm
        return np.asarray(index[far])


def _areas(maps: NDArray[np.integer], scans: list[PackedScan], min_area: int) -> list[dict[int, int]]:
    """Of each slice, the ids that cover at least ``min_area`` pixels, with their areas."""
    out: list[dict[int, int]] = []
    for scan in scans:
        for ids in maps[scan.first : scan.first + scan.count]:
            counts = np.bincount(ids.ravel())
            counts[0] = 0
            out.append({int(i): int(counts[i]) for i in np.flatnonzero(counts >= min_area)})
    return out


def _partners(scans: list[PackedScan], areas: list[dict[int, int]]) -> dict[tuple[str, int], list[int]]:
    """Slices that hold a label, by data set and label."""
    out: dict[tuple[str, int], list[int]] = {}
    for scan in scans:
        for index in range(scan.first, scan.first + scan.count):
            for label in areas[index]:
                out.setdefault((scan.source, label), []).append(index)
    return out


def _near(mask: NDArray[np.bool_], row: float, column: float, pixels: float) -> bool:
    rows, columns = np.nonzero(mask)
    return bool(np.hypot(rows - row, columns - column).min() < pixels)


def _compact(maps: Tensor) -> Tensor:
    """Ids renumbered from 0 without gaps, background kept at 0."""
    ids = torch.cat([maps.flatten(), maps.new_zeros(1)])
    index: Tensor = torch.unique(ids, return_inverse=True)[1]
    return index[:-1].view_as(maps)
