"""Fits the judge of parts of lung tumors (``methods/tumor/parts.py``) and writes it into the lungs' weights.

Usage: ``python benchmarks/lung_parts.py --maps FOLDER --output FILE [--weights FILE] [--picture FILE]
[--turns 3]``; data through ``LATENTSEG_DATA``, with what ``lung_slices.py --dx --cubes`` writes. Maps are
kept in the folder, so that a run that is stopped goes on.

Chests of patients that ``configs/split.yaml`` does not keep back. Into each are put, every turn anew, ten
nodules and masses in three dimensions, most of them real ones of other people, which are turned and up to two
and a half times as large, the others synthetic, of 5 to 48 mm, solid or not; deep in a lung, at its wall or
its hilum, as a thick or a thin slice shows them. What the networks mark at a low threshold is a tumor where
it overlaps such a lesion well, and none where it does not; what lies in an annotated tumor of the patient, or
in slices with tumors that are not outlined, is left out.

Printed is what judges do to patients that they were not fitted to, one at a time, as the sensitivity at 0.5
to 4 false parts a scan for lesions of 10 mm and more; by these the judge is calibrated, so that in a fifth of
the scans some false part passes one half, and Dice of what passes is printed as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

import latentseg as ls
from latentseg.backbones import registry
from latentseg.errors import InputError, LatentsegWarning
from latentseg.evaluation.datasets.base import data_root
from latentseg.imaging import Volume, read, read_labels, to_canonical
from latentseg.methods.log_odds import LIMIT
from latentseg.methods.log_odds import log_odds as logits
from latentseg.methods.tumor import network
from latentseg.methods.tumor.lung_field import WINDOW_HU, lung_field
from latentseg.methods.tumor.networks import TumorNetworks
from latentseg.methods.tumor.options import RECOMMENDED
from latentseg.methods.tumor.part_features import FEATURES, Part, Shown, features_of
from latentseg.methods.tumor.parts import PartJudge, apart, marked_parts
from latentseg.methods.tumor.picture_network import read_picture
from latentseg.methods.tumor.preparing import prepared_scan
from latentseg.methods.tumor.slice_attention import Attention
from latentseg.methods.tumor.suspicion import judged_maps
from latentseg.training.tumor.lesions import LesionOptions, add_lesion


class Chest(NamedTuple):
    """A file below the data folder, whose it is, a seed, and slices with tumors that are not outlined."""

    file: str
    patient: str
    seed: int
    left_out: tuple[range, ...] = ()


CHESTS = {
    "acrin": Chest("tcia/ACRIN-FLT-Breast__ACRIN-FLT-Breast_001__CT__805941.nii.gz", "ACRIN", 0),
    "cmb846": Chest("tcia/CMB-CRC__CMB-CRC-MSB-01068__CT__846513.nii.gz", "CMB", 1, (range(15, 20),)),
    "cmb556": Chest("tcia/CMB-CRC__MSB-01068__CT__556792.nii.gz", "CMB", 2),
    "c3n": Chest("tcia/CPTAC-LUAD__C3N-00704__CT__549101.nii.gz", "C3N", 3, (range(73, 83),)),
    "l21": Chest("tcia/LIDC-IDRI__LIDC-IDRI-0021__CT__802868.nii.gz", "L21", 4, (range(26), range(43, 50))),
    "l314": Chest("tcia/LIDC-IDRI__LIDC-IDRI-0314__CT__275227.nii.gz", "L314", 5, (range(8), range(19, 35))),
    "fcp": Chest("tcia/LungFCP-01-0001__CT__418685.nii.gz", "FCP", 6, (range(5, 13),)),
    "dx1b": Chest("lung_slices/dx/Lung_Dx-A0001_3.nii.gz", "DX1", 11),
    "dx2b40": Chest("lung_slices/dx/Lung_Dx-A0002_3.nii.gz", "DX2", 14),
}
FIRST, SEED = 11, 5  # turn
LESIONS, RADII_MM, GROUND_GLASS = 10, (2.6, 24.0), 0.3
ATTACHED = 0.4  # of lesions, which grow at the wall of a lung or its hilum
GREY = {True: (-0.55, 0.0), False: (0.0, 0.55)}  # of lesions in the lung window, of ground glass and solid
SMALLEST, HALF = 6, np.array([0.5, 0.0, 0.0])  # voxels; of a slice
SCAN_ALARMS = 0.2
REAL, GROWN = 0.6, (0.9, 2.5)  # of lesions, how many are real nodules; by what these are larger
IOU, SHARE = 0.1, 0.4  # with a lesion, and of a part in lesions, from which it finds a tumor
CLEAR, LARGE_MM = 0.3, 10.0  # IoU from which it is one to be fitted to; diameter from which lesions count
NONE, TUMOR, NOT_FITTED, UNKNOWN = range(4)
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Nodule(NamedTuple):
    """HU of a cube around a real nodule, where that is, and the edge of a voxel in mm."""

    hu: NDArray[np.float32]
    mask: Mask
    voxel_mm: float = 1.0

    @property
    def radius_mm(self) -> float:
        """Of a ball of the same volume."""
        return self.voxel_mm * float(np.cbrt(0.75 * self.mask.sum() / np.pi))

    def another(self, rng: np.random.Generator, *, step_mm: float) -> Nodule:
        """The same of another size, turned and mirrored, now and then as a thick slice shows it."""
        voxel_mm = float(np.exp(rng.uniform(*np.log(GROWN))))
        turns, flips = int(rng.integers(4)), rng.choice([-1, 1], 2)
        hu, mask = (np.rot90(one, turns, (1, 2))[:: flips[0], :, :: flips[1]] for one in self[:2])
        if rng.random() < 0.5:
            hu = ndimage.uniform_filter1d(hu, max(int(step_mm / voxel_mm), 1), axis=0)
        return Nodule(hu, mask, voxel_mm)


def planted(
    scan: Volume, rng: np.random.Generator, real: Sequence[Nodule]
) -> tuple[Volume, NDArray[np.uint8]]:
    """A chest with lesions, and their numbers on its canonical slices."""
    canonical, field = to_canonical(scan), lung_field(scan, 256)
    hu, truth = canonical.slices.astype(np.float32), np.zeros(canonical.slices.shape, np.uint8)
    if field is None:
        return scan, truth
    lung, notched = (field.seen.undo(mask.astype(np.float32)) > 0.5 for mask in (field.lung, field.inside))
    (low, high), (step, pixel) = WINDOW_HU, canonical.spacing_mm[:2]
    wall_mm = ndimage.distance_transform_edt(lung, canonical.spacing_mm)
    for _ in range(LESIONS):
        nodule, radius = None, float(np.exp(rng.uniform(*np.log(RADII_MM))))
        if rng.random() < REAL:
            nodule = real[rng.integers(len(real))].another(rng, step_mm=step)
            radius = nodule.radius_mm
        grey = GREY[bool(rng.random() < GROUND_GLASS)]
        irregular = 0.6 if rng.random() < 0.4 else 0.35
        options = LesionOptions(
            (radius / pixel, radius / pixel), dark=0.0, texture=0.2, contrast=(0.15, 1.2), solid=grey,
            irregular=irregular,
        )  # fmt: skip
        halves = int(np.ceil(2.4 * radius / step)) + 1, *2 * (int(2.4 * radius / pixel + 6),)
        attached = rng.random() < ATTACHED
        points = np.argwhere(lung & (wall_mm <= radius) if attached else lung)
        room = notched if attached and rng.random() < 0.5 else lung
        at = points[rng.integers(len(points))]
        box = tuple(slice(max(c - h, 0), c + h + 1) for c, h in zip(at, halves, strict=True))
        if truth[box].any():
            continue
        middle = at - np.array([side.start for side in box])
        if nodule is not None:
            offsets = np.indices(hu[box].shape) - middle.reshape(3, 1, 1, 1)
            offsets_mm = offsets * np.reshape(canonical.spacing_mm, (3, 1, 1, 1))
            change, mask = transplanted(hu[box], room[box], nodule, offsets_mm)
        else:
            images = (2 * (hu[box] - low) / (high - low) - 1).clip(-1, 1)
            change, mask = grown(images, room[box], middle, rng, options, factor=max(round(step / pixel), 1))
            change = change * (high - low) / 2
        if mask.sum() >= SMALLEST:
            hu[box] += change
            truth[box][mask] = truth.max() + 1
    grown_scan = np.ascontiguousarray(canonical.restore(hu), np.float32)
    return Volume(grown_scan, scan.affine_ras_mm, "CT"), truth


def grown(
    images: NDArray[np.float32],
    room: Mask,
    middle: NDArray[np.int64],
    rng: np.random.Generator,
    options: LesionOptions,
    *,
    factor: int,
) -> tuple[NDArray[np.float32], Mask]:
    """What one lesion changes in slices, each ``factor`` pixels thick, and where it is."""
    fine = ndimage.uniform_filter1d(images.repeat(factor, 0), factor, axis=0)
    room = room.repeat(factor, 0)
    offsets = np.moveaxis(np.indices(fine.shape), 0, -1) - (middle + HALF) * np.array([factor, 1, 1])
    core = room & (np.square(offsets).sum(-1) <= max(options.radius[0], 3) ** 2)
    if not core.any():
        return np.zeros_like(images), np.zeros(images.shape, bool)
    lesion = add_lesion(fine, core, rng, room=room, options=options)
    slabs = len(images), factor, *images.shape[1:]
    change, mask = (lesion.image - fine).reshape(slabs), lesion.mask.reshape(slabs)
    if rng.random() < 0.5:
        return change[:, factor // 2], mask[:, factor // 2]
    return change.mean(1), mask.mean(1) > 0.5


@torch.no_grad()
def maps_of(networks: TumorNetworks, chest: Chest, seed: tuple[int, ...]) -> dict[str, NDArray[np.generic]]:
    """The map of a chest with planted lesions, and what is known of it; of slices that show lungs."""
    scan = read(data_root() / chest.file, modality="CT")
    tumors = data_root() / chest.file.replace(".nii.gz", "_label.nii.gz")
    own = read(tumors, modality="CT") if tumors.exists() else None
    scan, truth = planted(scan, np.random.default_rng(seed), nodules())
    lungs = lung_field(scan, 256)
    if lungs is None:
        return {}
    kept = np.flatnonzero(lungs.inside.any((1, 2)))
    options = replace(RECOMMENDED, refinement=None)
    attention = Attention(networks, options)
    prepared = prepared_scan(networks, lungs.seen, options, lungs=lungs)
    first = attention.of_scan(prepared, networks.queries("lung tumor", "CT"))
    maps, likely = judged_maps(attention, prepared, first, lungs=lungs)
    found = maps.log_odds[kept, 0].numpy()
    unknown = np.isin(kept, [k for gone in chest.left_out for k in gone])
    boxes = np.zeros(truth.shape, np.uint8) if own is None else to_canonical(own).slices.astype(np.uint8)
    return {
        "log_odds": found.astype(np.float16),
        "images": lungs.seen.images[kept].astype(np.float16),
        "organ": lungs.around[kept],
        "spacing_mm": np.array(lungs.seen.spacing_mm),
        "likely": np.flatnonzero(np.isin(kept, likely)),
        "truth": lungs.fitted(truth)[kept],
        "boxes": lungs.fitted(boxes)[kept].astype(bool),
        "unknown": unknown,
    }


@cache
def nodules() -> list[Nodule]:
    """HU and masks of real nodules in cubes of 1 mm, as ``lung_slices.py --cubes`` writes them.

    Raises:
        InputError: They are not on this machine.
    """
    found, folder = [], data_root() / "lung_slices" / "cubes"
    for path in sorted(folder.glob("*[0-9].nii.gz")):
        scan = read(path, modality="CT")
        mask = read_labels(path.with_name(path.name.replace(".nii", "_label.nii")), like=scan)
        found.append(Nodule(to_canonical(scan).slices.astype(np.float32), to_canonical(mask).slices > 0))
    if not found:
        raise InputError("no cubes of nodules", where=str(folder), fix="run lung_slices.py --cubes FOLDER")
    return found


def transplanted(
    hu: NDArray[np.float32], room: Mask, nodule: Nodule, offsets_mm: Array
) -> tuple[NDArray[np.float32], Mask]:
    """What a real nodule changes in slices, and where it is; offsets ``(3, S, H, W)`` are from its middle."""
    middle = (np.array(nodule.hu.shape) - 1) / 2
    places = offsets_mm / nodule.voxel_mm + middle.reshape(3, 1, 1, 1)
    look = ndimage.map_coordinates(nodule.hu, places, order=1, mode="nearest")
    weight = ndimage.map_coordinates(nodule.mask.astype(np.float32), places, order=1) * room
    return weight * (look - hu), weight > 0.5


class Found(NamedTuple):
    """Parts of a scan, ``N`` of them.

    Attributes:
        parts: Where they are.
        features: ``(N, F)``.
        kind: ``(N,)``, of :data:`TUMOR` and so on.
        hit: ``(N,)``, number of the lesion that it finds, or 0.
        large: Numbers of the lesions of 10 mm and more.
        shape: Of the scan.
        spacing_mm: Of its slices, rows and columns.
        voxels: ``(N, 2)``, how many they have where all is known, and how many of these are of lesions.
        planted: Voxels of lesions there.
    """

    parts: list[Part]
    features: Array
    kind: NDArray[np.int64]
    hit: NDArray[np.int64]
    large: tuple[int, ...]
    shape: tuple[int, ...]
    spacing_mm: tuple[float, float, float]
    voxels: NDArray[np.int64]
    planted: int


def shown_in(maps: dict[str, NDArray[np.generic]]) -> Shown:
    """What is known of a scan in which parts are judged."""
    log_odds, images = (maps[name].astype(np.float32) for name in ("log_odds", "images"))
    dense = 2 * (-400 - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0]) - 1
    step, row, column = maps["spacing_mm"].astype(float)
    return Shown(log_odds, images, maps["organ"].astype(bool), images > dense, (step, row, column))


def parts_of(maps: dict[str, NDArray[np.generic]]) -> Found:
    """Parts of a scan, and what is known of them."""
    shown = shown_in(maps)
    parts = marked_parts(shown.log_odds, maps["likely"].astype(int))[1]
    truth, boxes = maps["truth"].astype(int), maps["boxes"].astype(bool)
    sizes = np.bincount(truth.ravel())
    clear = ~boxes & ~maps["unknown"].astype(bool)[:, None, None]
    kinds, hits, voxels = [], [], []
    for box, mask in parts:
        inside, size = np.bincount(truth[box][mask], minlength=len(sizes)), int(mask.sum())
        own = int(boxes[box][mask].sum())
        iou = (inside / (sizes + size - inside))[1:].max(initial=0.0)
        own_iou = own / max(int(boxes.sum()) + size - own, 1)
        inside[0] = 0
        found = max(iou, own_iou) >= IOU or max(int(inside.max()), own) >= SHARE * size
        known = not maps["unknown"][box[0]][mask.any((1, 2))].any()
        kinds.append(TUMOR if iou >= CLEAR else NOT_FITTED if found else NONE if known else UNKNOWN)
        hits.append(int(inside.argmax()) if iou >= IOU else 0)
        own_clear = mask & clear[box]
        voxels.append((int(own_clear.sum()), int((own_clear & (truth[box] > 0)).sum())))
    volumes = sizes * np.prod(shown.spacing_mm)
    large = [
        n for n in range(1, len(sizes)) if sizes[n] >= SMALLEST and volumes[n] >= LARGE_MM**3 * np.pi / 6
    ]
    features = features_of(parts, shown)
    return Found(
        parts,
        features,
        np.array(kinds),
        np.array(hits),
        tuple(large),
        truth.shape,
        shown.spacing_mm,
        np.array(voxels).reshape(-1, 2),
        int(((truth > 0) & clear).sum()),
    )


def found_in(networks: TumorNetworks, folder: Path, turns: int) -> Iterator[tuple[str, Found]]:
    """Parts of every chest and turn, with the patient."""
    folder.mkdir(parents=True, exist_ok=True)
    for turn in range(FIRST, FIRST + turns):
        for name, chest in CHESTS.items():
            path = folder / f"{name}_{turn}.npz"
            if not path.exists():
                np.savez_compressed(path, **maps_of(networks, chest, (turn, chest.seed, SEED)))  # type: ignore[arg-type]
            with np.load(path) as file:
                maps = dict(file)
            if maps:
                yield chest.patient, parts_of(maps)


def judge_of(rows: Sequence[Found]) -> PartJudge:
    """A judge of parts."""
    known = [row.kind <= TUMOR for row in rows]
    features = np.concatenate([row.features[own] for row, own in zip(rows, known, strict=True)])
    tumor = np.concatenate([row.kind[own] == TUMOR for row, own in zip(rows, known, strict=True)])
    mean, scale = features.mean(0), features.std(0) + 1e-6
    model = LogisticRegression(C=0.2, max_iter=2000).fit((features - mean) / scale, tumor)
    own, unit, weight = (tuple(np.round(one, 4).tolist()) for one in (mean, scale, model.coef_[0]))
    return PartJudge(own, unit, weight, round(float(model.intercept_[0]), 4))


class Answer(NamedTuple):
    """A part that does not lie close to a surer one: log-odds, kind, the scan and lesion it finds, voxels."""

    log_odds: float
    kind: int
    scan: int
    hit: int
    voxels: tuple[int, int]


def answers(rows: Sequence[tuple[str, Found]]) -> list[Answer]:
    """Of judges that did not see the patient."""
    found = []
    for patient in sorted({patient for patient, _ in rows}):
        judge = judge_of([row for other, row in rows if other != patient])
        for scan, (own, row) in enumerate(rows):
            if own != patient:
                continue
            chances = judge.chance(row.features)
            sure = logits(chances.astype(np.float32))
            for number in apart(row.parts, chances, shape=row.shape, spacing_mm=row.spacing_mm):
                size, inside = row.voxels[number].tolist()
                kind, hit = int(row.kind[number]), int(row.hit[number])
                found.append(Answer(float(sure[number]), kind, scan, hit, (size, inside)))
    return sorted(found, reverse=True)


def sensitivity(
    rows: Sequence[tuple[str, Found]], found: Sequence[Answer], *, false_positives: float
) -> float:
    """Share of the large lesions that are found where so many false parts a scan are accepted."""
    hit, wrong = set(), 0
    for answer in found:
        wrong += answer.kind == NONE
        if wrong > false_positives * len(rows):
            break
        if answer.hit in rows[answer.scan][1].large:
            hit.add((answer.scan, answer.hit))
    return round(len(hit) / sum(len(row.large) for _, row in rows), 3)


def level_of(found: Sequence[Answer], scans: int) -> float:
    """Log-odds that a false part passes in a fifth of scans."""
    highest = [
        max((one.log_odds for one in found if one.scan == scan and one.kind == NONE), default=-LIMIT)
        for scan in range(scans)
    ]
    return float(np.quantile(highest, 1 - SCAN_ALARMS))


def mask_dice(rows: Sequence[tuple[str, Found]], found: Sequence[Answer]) -> float:
    """Of the parts above that level together, with the lesions of a scan; mean over scans."""
    level, scores = level_of(found, len(rows)), []
    for scan, (_, row) in enumerate(rows):
        kept = [one.voxels for one in found if one.scan == scan and one.log_odds >= level]
        size, inside = np.sum(kept, 0) if kept else (0, 0)
        scores.append(2 * inside / max(size + row.planted, 1))
    return round(float(np.mean(scores)), 3)


def figures(rows: Sequence[tuple[str, Found]], found: Sequence[Answer]) -> dict[str, float | int]:
    """What judges make of patients that they did not see."""
    return {
        "parts": sum(len(row.kind) for _, row in rows),
        "large lesions with a part": sum(len({*row.hit.tolist()} & {*row.large}) for _, row in rows),
        **{f"sensitivity at {n}": sensitivity(rows, found, false_positives=n) for n in (0.5, 1, 2, 4)},
        "dice": mask_dice(rows, found),
    }


def main() -> None:
    """Fit, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="Networks of lungs; the shipped ones when left out.")
    parser.add_argument("--picture", type=Path, help="What sees the picture alone; the same.")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--result", type=Path, default=Path("benchmarks/results/lung_parts.json"))
    options = parser.parse_args()
    warnings.simplefilter("ignore", LatentsegWarning)
    file = options.weights or registry.resolve("compact") / network.file_alone("lung")
    made, facts = network.load(file)
    networks = replace(ls.load("tumor").networks.alone["lung"], network=made)
    if options.picture:
        picture = read_picture(options.picture, networks.stages.photographs)
        networks = replace(networks, picture=picture)
    rows = list(found_in(networks, options.maps, options.turns))
    found = answers(rows)
    judge = judge_of([row for _, row in rows])
    judge = replace(judge, bias=round(judge.bias - level_of(found, len(rows)), 4))
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "scans": len(rows),
        "patients": len({patient for patient, _ in rows}),
        "lesions of 10 mm and more": sum(len(row.large) for _, row in rows),
        **figures(rows, found),
        "bias": judge.bias,
        "weights": dict(zip(FEATURES, judge.weight, strict=True)),
    }
    sys.stdout.write(f"{json.dumps(result, indent=1)}\n")
    options.result.write_text(json.dumps(result) + "\n", encoding="utf-8")
    network.save(options.output, made, facts | {"parts": judge.to_json()})


if __name__ == "__main__":
    main()
