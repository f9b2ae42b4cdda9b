"""Whether the other lung, as healthy tissue of the very scan, adds to what is known of parts of a map.

Usage: ``python benchmarks/mirrored_lungs.py --maps FOLDER [--turns 3] [--output FILE]``, the folder that
``lung_parts.py`` fills; chests, lesions and parts are its own.

Vessels of the hilum come in pairs, tumors do not. Each part is laid on its counterpart about the middle of
the lungs, slice by slice, and moved by up to 12 mm in rows and columns and 8 mm across slices. Measured are
the least difference of grey values, how far its mean grey value, its solid share and its log-odds, mean and
highest, lie above the highest of these places, its largest ball by the largest one there, and how far frozen
features of photographs differ from the other side's, as in heads (``mirrored_evidence.py``). A control looks
at no tissue: distance from the middle, how high and how far back a part lies, and that from its hilum.

Judges are fitted without the patient, with the map alone (mean and highest log-odds of a part) and with all
:data:`~latentseg.methods.tumor.part_features.FEATURES`, each with and without both: AUC of parts, and
sensitivity for lesions of 10 mm and more at some false parts a scan.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

import lung_parts
from latentseg.backbones import registry
from latentseg.backbones.image_features import FeatureNetwork, read_feature_network
from latentseg.methods.diffugts.attention_maps import resized
from latentseg.methods.tumor.part_features import Part, Shown
from latentseg.methods.tumor.symmetry import COMPARED, distance_to_nearest
from lung_parts import Array, Found

MAP = (1, 2)  # of the features: the log-odds
REACH_MM, EVERY_MM = (8.0, 12.0, 12.0), (4.0, 3.0, 3.0)
POINTS, HILUM_MM = 400, 25.0  # of a part that are looked at; from the middle of the lungs


def middles(organ: NDArray[np.bool_]) -> Array:
    """The middle column of the lungs in each slice ``(S,)``, smoothed along slices."""
    used = np.flatnonzero(organ.any((1, 2)))
    ends = [np.flatnonzero(organ[n].any(0))[[0, -1]].mean() for n in used]
    return np.asarray(ndimage.median_filter(np.interp(np.arange(len(organ)), used, ends), 7, mode="nearest"))


@torch.no_grad()
def asymmetry(photographs: FeatureNetwork, images: NDArray[np.float32], middle: Array) -> Array:
    """Distance of frozen features to those of the other side, less its median in each slice."""
    columns, rows = np.arange(images.shape[2]), []
    for image, center in zip(images, middle, strict=True):
        mirrored = image[:, np.rint(2 * center - columns).astype(int).clip(0, columns[-1])]
        own, other = (
            photographs.maps(torch.from_numpy(np.ascontiguousarray(one))[None, None])[COMPARED].cpu()
            for one in (image, mirrored)
        )
        distance = resized(distance_to_nearest(own, other), image.shape)[0, 0].numpy()
        rows.append(distance - np.median(distance))
    return np.stack(rows)


def shifts(spacing_mm: Sequence[float]) -> NDArray[np.intp]:
    """Places that a counterpart is looked for at, ``(3, M, 1)``, in voxels."""
    sides = [
        np.arange(-round(reach / step), round(reach / step) + 1, max(round(every / step), 1))
        for reach, every, step in zip(REACH_MM, EVERY_MM, spacing_mm, strict=True)
    ]
    return np.stack(np.meshgrid(*sides, indexing="ij")).reshape(3, -1, 1)


def compared(parts: Sequence[Part], shown: Shown, differing: Array, middle: Array) -> tuple[Array, Array]:
    """What sets parts apart from their counterparts ``(N, 8)``, and where they lie ``(N, 4)``."""
    rng, moves = np.random.default_rng(0), shifts(shown.spacing_mm)
    solid = shown.organ & shown.solid
    balls = ndimage.distance_transform_edt(np.pad(solid, 1), shown.spacing_mm)[1:-1, 1:-1, 1:-1]
    edges = [np.flatnonzero(shown.organ.any(axes))[[0, -1]] for axes in ((1, 2), (0, 2))]
    other_side, places = [], []
    for box, mask in parts:
        points = np.argwhere(mask) + [side.start for side in box]
        center = points.mean(0)
        if len(points) > POINTS:
            points = points[rng.choice(len(points), POINTS, replace=False)]
        own = tuple(points.T)
        across = np.rint(2 * middle[own[0]] - own[2]).astype(int)
        there = tuple(
            (at + move).clip(0, edge - 1)
            for at, move, edge in zip((own[0], own[1], across), moves, shown.organ.shape, strict=True)
        )
        grey, log_odds = shown.images[own], shown.log_odds[own]
        ball, differs = balls[box][mask].max(), differing[box][mask]
        other_side.append(
            (
                np.abs(grey - shown.images[there]).mean(1).min(),
                grey.mean() - shown.images[there].mean(1).max(),
                shown.solid[own].mean() - shown.solid[there].mean(1).max(),
                log_odds.mean() - shown.log_odds[there].mean(1).max(),
                log_odds.max() - shown.log_odds[there].max(),
                np.log((ball + 1) / (balls[there].max() + 1)),
                differs.mean(),
                differs.max(),
            )
        )
        from_middle = center[2] - middle[int(center[0])]
        hilum = (
            *(side.mean() for side in edges),
            middle[int(center[0])] + np.sign(from_middle) * HILUM_MM / shown.spacing_mm[2],
        )
        height, back = ((at - a) / max(b - a, 1) for at, (a, b) in zip(center[:2], edges, strict=True))
        away = np.linalg.norm((center - hilum) * np.array(shown.spacing_mm))
        places.append((abs(from_middle) * shown.spacing_mm[2], height, back, away))
    return np.array(other_side).reshape(-1, 8), np.array(places).reshape(-1, 4)


def figures(rows: Sequence[tuple[str, Found]]) -> dict[str, float]:
    """AUC of parts and sensitivities, by judges that did not see the patient."""
    kind, chance = [], []
    for patient in sorted({patient for patient, _ in rows}):
        judge = lung_parts.judge_of([row for other, row in rows if other != patient])
        own = [row for other, row in rows if other == patient]
        kind += [row.kind for row in own]
        chance += [judge.chance(row.features) for row in own]
    known = np.concatenate(kind) <= lung_parts.TUMOR
    found = lung_parts.answers(rows)
    auc = roc_auc_score(np.concatenate(kind)[known] == lung_parts.TUMOR, np.concatenate(chance)[known])
    levels = {
        f"sensitivity at {n}": lung_parts.sensitivity(rows, found, false_positives=n) for n in (1, 2, 4)
    }
    return {"auc": round(float(auc), 4), **levels}


def main() -> None:
    """Compare every part; print and write what judges make of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/mirrored_lungs.json"))
    options = parser.parse_args()
    photographs = read_feature_network(registry.resolve("compact") / "matching.safetensors")
    found, other_side, places = [], [], []
    for turn in range(lung_parts.FIRST, lung_parts.FIRST + options.turns):
        for name, chest in lung_parts.CHESTS.items():
            with np.load(options.maps / f"{name}_{turn}.npz") as file:
                maps = dict(file)
            shown, row = lung_parts.shown_in(maps), lung_parts.parts_of(maps)
            middle = middles(shown.organ)
            differing = asymmetry(photographs, shown.images, middle)
            there, where = compared(row.parts, shown, differing, middle)
            found.append((chest.patient, row))
            other_side.append(there)
            places.append(where)
    result: dict[str, object] = {"date": datetime.now(UTC).date().isoformat(), "scans": len(found)}
    for known, columns in (("map", list(MAP)), ("all features", slice(None))):
        for name, more in (("", None), (" and other lung", other_side), (" and place", places)):
            rows = [
                (
                    patient,
                    row._replace(
                        features=np.hstack([row.features[:, columns], *([more[n]] if more else [])])
                    ),
                )
                for n, (patient, row) in enumerate(found)
            ]
            result[known + name] = figures(rows)
            sys.stdout.write(f"{known}{name}: {json.dumps(result[known + name])}\n")
    options.output.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
