"""Painting the organs of the procedural abdomen, each from two or three shapes; see :func:`paint_all`.

The proportions are those of textbook anatomy in supine adults; nothing is copied from a patient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentseg.phantom.anatomy import Array, Canvas, Patient, Point, Tissue, smooth_field

T = Tissue
SOFT = (T.VISCERAL_FAT, T.SMALL_VESSEL)
BOWEL = (T.BOWEL_WALL, T.BOWEL_FLUID, T.BOWEL_CONTRAST, T.STOOL, T.GAS)


def paint_all(canvas: Canvas, patient: Patient) -> None:
    """Paint a whole abdomen onto an empty canvas."""
    depth = paint_body(canvas, patient)
    paint_lungs(canvas, patient, depth)
    paint_spine(canvas, patient)
    paint_ribs(canvas, patient, depth)
    steps: list[Callable[[Canvas, Patient], None]] = [
        *(paint_bowel, paint_pancreas, paint_stomach, paint_spleen, paint_liver, paint_gallbladder),
        *(paint_kidneys, paint_great_vessels, paint_table),
    ]
    for step in steps:
        step(canvas, patient)


def paint_body(canvas: Canvas, patient: Patient) -> Array:
    """Skin, fat, the muscular wall and the cavity; returns the depth below the skin in mm `(S, H, W)`."""
    angle = np.arctan2(canvas.y / patient.half_depth, canvas.x / patient.half_width)
    wobble = sum(
        np.float32(canvas.rng.normal(0, 0.018)) * np.cos(n * angle + np.float32(canvas.rng.uniform(0, 6.3)))
        for n in (2, 3, 4)
    )
    power = np.float32(patient.squareness)
    radius = np.abs(canvas.x / np.float32(patient.half_width)) ** power
    radius = (radius + np.abs(canvas.y / np.float32(patient.half_depth)) ** power) ** (1 / power) + 1e-6
    depth = np.hypot(canvas.x, canvas.y) * ((1 + wobble) / radius - 1)
    groove = np.exp(-((canvas.x / 16) ** 2)) * (canvas.y > 0) * np.float32(9.0)
    depth = np.asarray(depth - groove, np.float32)
    back = np.clip(np.sin(angle), 0, 1)
    fat = patient.fat * (0.8 + 0.35 * np.clip(np.sin(angle), -0.5, 1))
    wall = patient.wall * (1 + 0.9 * back)
    whole = (slice(None),) * 3
    for tissue, inside in (
        (T.SKIN, depth > 0),
        (T.FAT, depth > 2.0),
        (T.MUSCLE, depth > fat),
        (T.VISCERAL_FAT, depth > fat + wall),
    ):
        canvas.paint(whole, inside, tissue)
    window, linea = canvas.ellipsoid((0, -patient.half_depth + fat_at(patient) + 2, 0), (9, 7, 400))
    canvas.paint(window, linea < 1, T.VISCERAL_FAT, T.MUSCLE)
    return np.asarray(depth - fat, np.float32)


def fat_at(patient: Patient) -> float:
    """Thickness of the fat in front of the abdominal wall, in mm."""
    return patient.fat * 0.625


def diaphragm(canvas: Canvas, patient: Patient) -> tuple[Array, Array]:
    """Height in mm of the right and of the left dome over every voxel."""
    y = (canvas.y + 8.0) ** 2
    right = patient.dome_right - ((canvas.x + 66) ** 2 / 100 + y / 125)
    left = patient.dome_left - ((canvas.x - 66) ** 2 / 100 + y / 125)
    return np.asarray(right, np.float32), np.asarray(left, np.float32)


def paint_lungs(canvas: Canvas, patient: Patient, depth: Array) -> None:
    """Lung bases above and behind the diaphragm, and the heart between them."""
    right, left = diaphragm(canvas, patient)
    side = np.where(canvas.x < 0, right, left)
    whole = (slice(None),) * 3
    over = canvas.z > np.maximum(side, 18.0 + 0.25 * (canvas.y < 0) * 120)
    canvas.paint(whole, (canvas.z > side - 5) & over, T.MUSCLE, *SOFT)
    chest = (
        over & (depth > patient.wall + 5) & (np.hypot(canvas.x / 26, (canvas.y - patient.spine_y) / 60) > 1)
    )
    canvas.paint(whole, chest, T.LUNG, T.VISCERAL_FAT, T.MUSCLE)
    window, heart = canvas.ellipsoid((22, -30, patient.dome_left + 34), (58, 48, 46))
    canvas.paint(window, heart < 1.15, T.VISCERAL_FAT, T.LUNG)
    canvas.paint(window, heart < 1, T.HEART, T.LUNG, T.VISCERAL_FAT)


def paint_spine(canvas: Canvas, patient: Patient) -> None:
    """Vertebral bodies and discs, canal, processes, psoas and the muscles of the back."""
    y, long = patient.spine_y, 1000.0
    for side in (-1, 1):
        window, erector = canvas.ellipsoid((side * 31, y + 46, 0), (27, 21, long))
        canvas.paint(window, erector < 1, T.MUSCLE, T.FAT, *SOFT)
        window, psoas = canvas.ellipsoid((side * 37, y + 6, -100), (19, 20, 98), tilt=-side * 0.10)
        canvas.paint(window, psoas < 1, T.MUSCLE, *SOFT)
    rise = np.float32(canvas.rng.uniform(0, 34))
    phase = (canvas.z + rise) % np.float32(34.0)
    disc = phase < 8
    window, body = canvas.ellipsoid((0, y, 0), (22, 17, long))
    part = disc[window]
    canvas.paint(window, body < 1, T.BONE)
    canvas.paint(window, body < 0.8, T.MARROW)
    canvas.paint(window, (body < 1) & part, T.DISC)
    process = ((phase > 12) & (phase < 30))[window]
    lateral = (np.abs(canvas.y[window] - y - 24) < 5 - np.abs(canvas.x[window]) * 0.05) & process
    canvas.paint(window, lateral & (np.abs(canvas.x[window]) < 34), T.BONE, T.MUSCLE, T.FAT, *SOFT)
    window, ring = canvas.ellipsoid((0, y + 25, 0), (17, 13, long))
    canvas.paint(window, ring < 1, T.BONE, T.MUSCLE, T.VISCERAL_FAT, T.FAT, T.BONE)
    window, spinous = canvas.ellipsoid((0, y + 46, 0), (5, 20, long))
    spread = ((phase > 14) | (phase < 4))[window]
    canvas.paint(window, (spinous < 1) & spread, T.BONE, T.MUSCLE, T.FAT, *SOFT)
    window, canal = canvas.ellipsoid((0, y + 24, 0), (10, 8, long))
    canvas.paint(window, canal < 1, T.CANAL)


def paint_ribs(canvas: Canvas, patient: Patient, depth: Array, *, margin_mm: float = -45.0) -> None:
    """Ribs inside the wall, descending from the spine to the front, ending at the costal margin behind."""
    turn = np.arctan2(np.abs(canvas.x), canvas.y - np.float32(patient.spine_y))  # 0 behind, pi in front
    height = canvas.z + np.float32(58.0) * turn + np.float32(canvas.rng.uniform(0, 30))
    rib = (height % np.float32(30.0) < 11) & (turn > 0.35) & (turn < 2.6)
    rib &= canvas.z > margin_mm + 48 * np.clip(turn - 1.2, 0, 2)
    rib &= (depth > 1.0) & (depth < min(patient.wall - 1.0, 8.5))
    whole = (slice(None),) * 3
    canvas.paint(whole, rib, T.RIB, T.MUSCLE)


def paint_liver(canvas: Canvas, patient: Patient) -> None:
    """Right and left lobe under the right dome, with hepatic and portal branches."""
    rng, grow = canvas.rng, patient.liver
    right, left = diaphragm(canvas, patient)
    half = patient.half_width - patient.fat
    reach = float(rng.uniform(0.05, 0.5))
    window, lobe = canvas.ellipsoid((-half * 0.58, 4, 24), (half * 0.66 * grow, 96 * grow, 100 * grow))
    whole = (slice(None),) * 3
    flank = np.full(canvas.shape, 9.0, np.float32)
    flank[window] = lobe
    thin = float(rng.uniform(0.75, 1.15))
    window, lobe = canvas.ellipsoid(
        (half * reach - 28, -46, 46), (half * 0.6, 50 * thin, 46 * grow), tilt=0.15
    )
    flank[window] = np.minimum(flank[window], lobe)
    roof = np.maximum(right, np.where(canvas.x > -30, left * 0.95, -999)) - 4
    hilum = ((canvas.x + 18) / 26) ** 2 + ((canvas.y - 22) / 34) ** 2 + ((canvas.z + 4) / 46) ** 2
    inside = (flank < 1) & (canvas.z < roof) & (hilum > 1)
    canvas.paint(whole, inside, T.LIVER, *SOFT, *BOWEL, T.STOMACH_WALL)
    window, fissure = canvas.ellipsoid((-8, -52, 6), (5, 34, 34), tilt=0.1)
    canvas.paint(window, fissure < 1, T.VISCERAL_FAT, T.LIVER)
    for _ in range(3):
        paint_tree(canvas, (-20.0, 18.0, 62.0), float(rng.uniform(4.5, 6.5)), down=True)
    for _ in range(3):
        paint_tree(canvas, (-26.0, 6.0, 14.0), float(rng.uniform(4.5, 6.5)), down=False)


@dataclass(frozen=True)
class Branching:
    """How a vessel wanders and forks.

    Attributes:
        tissue: What it is made of.
        inside: What it stays in.
        steps: Of the trunk.
        step_mm: Shortest and longest.
        bend: Standard deviation of the change of direction at a step.
        forks: Steps after which a branch leaves.
        thinnest_mm: Radius from which on nothing leaves.
        thinner: Radius of a branch, as a share of its vessel's.
        taper: Radius at the end, as a share of that at the start.
    """

    tissue: Tissue
    inside: Tissue
    steps: int
    step_mm: tuple[float, float]
    bend: float
    forks: tuple[int, ...]
    thinnest_mm: float
    thinner: float
    taper: float


HEPATIC = Branching(T.LIVER_VESSEL, T.LIVER, 6, (11, 17), 0.22, (1, 3), 3.2, 0.68, 0.5)


def paint_tree(canvas: Canvas, root: Point, width: float, *, down: bool) -> None:
    """One vessel with side branches, wandering from `root` to the right and front, inside the liver only."""
    rng = canvas.rng
    heading = np.array(
        [-rng.uniform(0.5, 1), rng.uniform(-0.9, 0.5), rng.normal(-0.4 if down else 0.2, 0.35)]
    )
    paint_branches(canvas, root, heading / np.linalg.norm(heading), width, kind=HEPATIC)


def paint_branches(
    canvas: Canvas, root: Point, heading: NDArray[np.float64], width: float, *, kind: Branching
) -> None:
    """A vessel of a radius from `root`, with side branches."""
    rng = canvas.rng
    branches = [(np.array(root), heading, width, kind.steps)]
    while branches:
        at, heading, width, steps = branches.pop()
        path = [at]
        for step in range(steps):
            heading = heading + rng.normal(0, kind.bend, 3)
            heading /= np.linalg.norm(heading)
            path.append(path[-1] + heading * rng.uniform(*kind.step_mm))
            if width > kind.thinnest_mm and step in kind.forks:
                branches.append((path[-1], heading + rng.normal(0, 0.7, 3), width * kind.thinner, 4))
        points: list[Point] = [(float(p[0]), float(p[1]), float(p[2])) for p in path]
        canvas.tube(points, (width, width * kind.taper), kind.tissue, kind.inside)


def paint_gallbladder(canvas: Canvas, _: Patient) -> None:
    """A pear under the liver; absent in one patient of seven."""
    if canvas.rng.random() < 0.14:
        return
    center = (-46 + canvas.rng.normal(0, 6), -34 + canvas.rng.normal(0, 6), -12 + canvas.rng.normal(0, 8))
    size = float(canvas.rng.uniform(0.7, 1.3))
    window, shape = canvas.ellipsoid(center, (13 * size, 21 * size, 22 * size), tilt=0.3)
    canvas.paint(window, shape < 1, T.GALLBLADDER, T.LIVER, T.VISCERAL_FAT, T.LIVER_VESSEL, T.BOWEL_WALL)


def paint_spleen(canvas: Canvas, patient: Patient) -> None:
    """A crescent against the left wall behind, hollowed by stomach and kidney."""
    _, left = diaphragm(canvas, patient)
    half, size = patient.half_width - patient.fat, patient.spleen
    at_z = float(canvas.rng.uniform(18, 42))
    center = (half * 0.7, patient.spine_y * 0.75, at_z)
    window, outer = canvas.ellipsoid(center, (42 * size, 52 * size, 58 * size), tilt=-0.08)
    around, hollow = canvas.ellipsoid((half * 0.3, -6, at_z - 6), (46, 46, 70))
    inner = np.full(canvas.shape, 9.0, np.float32)
    inner[around] = hollow
    inside = (outer < 1) & (inner[window] > 1) & (canvas.z[window] < left[window] - 4)
    canvas.paint(window, inside, T.SPLEEN, *SOFT, *BOWEL, T.STOMACH_WALL)


def paint_kidneys(canvas: Canvas, patient: Patient) -> None:
    """Cortex, medulla and the fat of the sinus; the right kidney lies lower."""
    rng, size = canvas.rng, patient.kidney
    tissues = (T.KIDNEY_CORTEX_RIGHT, T.KIDNEY_MEDULLA_RIGHT), (T.KIDNEY_CORTEX_LEFT, T.KIDNEY_MEDULLA_LEFT)
    for side, (cortex, medulla) in zip((-1, 1), tissues, strict=True):
        center = (
            side * (63 + rng.normal(0, 4)),
            patient.spine_y + 4 + rng.normal(0, 4),
            (-42 if side < 0 else -28) + rng.normal(0, 9),
        )
        radii = (27 * size, 31 * size, 54 * size * float(rng.uniform(0.9, 1.1)))
        window, shape = canvas.ellipsoid(center, radii, tilt=-side * 0.22)
        canvas.paint(window, shape < 1.4, T.VISCERAL_FAT, T.LIVER, T.SPLEEN, *BOWEL)
        notch = np.hypot(
            (canvas.x[window] - center[0] + side * 27 * size) / 16,
            (canvas.z[window] - center[2]) / 24,
        )
        notch = np.hypot(notch, (canvas.y[window] - center[1] + 10) / 15)
        parenchyma = (shape < 1) & (notch > 1)
        canvas.paint(window, parenchyma, cortex, *SOFT, T.MUSCLE)
        wave = smooth_field(canvas.shape, (12, 24, 24), rng)[window]
        core = (shape < 0.58 + 0.1 * wave) & parenchyma & (wave > -0.55)
        canvas.paint(window, core, medulla, cortex)
        hilum = (side * 42.0, center[1] - 8, center[2])
        end = (side * 8.0 - 6, patient.spine_y - 26, center[2] + 8)
        canvas.tube([hilum, end], (5.0, 5.0), T.RENAL_VEIN, *SOFT)


def paint_stomach(canvas: Canvas, patient: Patient) -> None:
    """A bag under the left dome, fluid or food below and gas in front, and the esophagus leading there."""
    rng = canvas.rng
    _, left = diaphragm(canvas, patient)
    half, full = patient.half_width - patient.fat, float(rng.uniform(0.55, 1.15))
    whole = (slice(None),) * 3
    bag = np.full(canvas.shape, 9.0, np.float32)
    parts: list[tuple[Point, Point]] = [
        ((half * 0.45, -14, 44), (38 * full, 40 * full, 44)),
        ((half * 0.30, -46, 14), (42 * full, 26 * full, 30)),
        ((0, -50, -8), (36, 20 * full, 19)),
    ]
    for center, radii in parts:
        window, shape = canvas.ellipsoid(center, radii, tilt=0.12)
        bag[window] = np.minimum(bag[window], shape)
    bag[canvas.z > left - 5] = 9.0
    canvas.paint(whole, bag < 1, T.STOMACH_WALL, *SOFT, *BOWEL)
    inside = bag < (1 - 5.5 / (38 * full)) ** 2
    canvas.paint(whole, inside, T.STOMACH_FLUID, T.STOMACH_WALL)
    level = np.float32(rng.uniform(-80, -28))
    canvas.paint(whole, inside & (canvas.y < level), T.STOMACH_GAS, T.STOMACH_FLUID)
    gullet = [(12.0, patient.spine_y - 32, 120.0), (14.0, patient.spine_y - 36, 62.0), (30.0, -8.0, 50.0)]
    canvas.tube(gullet, (8.0, 8.0), T.ESOPHAGUS, *SOFT, T.LUNG, T.HEART)


def paint_pancreas(canvas: Canvas, patient: Patient) -> None:
    """Head beside the duodenum, body over the spine, tail toward the spleen."""
    y, rng = patient.spine_y, canvas.rng
    lift = float(rng.normal(0, 7))
    path = [(-34, y - 40, -26), (-20, y - 50, -14), (8, y - 56, -4), (38, y - 44, 6), (66, y - 26, 14)]
    thick = float(rng.uniform(9, 14))
    canvas.tube([(float(a), b, c + lift) for a, b, c in path], (thick, thick * 0.7), T.PANCREAS, *SOFT)


def paint_bowel(canvas: Canvas, patient: Patient) -> None:
    """Loops of small bowel in front and below, and a colon of gas and stool along the flanks."""
    rng = canvas.rng
    half, front = patient.half_width - patient.fat, patient.half_depth - patient.fat
    fillings = [T.BOWEL_FLUID, T.BOWEL_WALL, T.BOWEL_CONTRAST if rng.random() < 0.5 else T.BOWEL_FLUID]
    for _ in range(int(rng.integers(45, 80))):
        low = float(rng.triangular(-120, -90, 25))
        center = (float(rng.uniform(-0.62, 0.7) * half), float(rng.uniform(-0.8, 0.15) * front), low)
        size = float(rng.uniform(8, 15))
        radii = (size * float(rng.uniform(0.8, 1.5)), size, size * float(rng.uniform(0.8, 1.6)))
        window, loop = canvas.ellipsoid(center, radii, tilt=float(rng.normal(0, 0.4)))
        canvas.paint(window, loop < 1, T.BOWEL_WALL, *SOFT, T.BOWEL_WALL)
        filling = fillings[int(rng.integers(3))]
        canvas.paint(window, loop < 0.55, filling, T.BOWEL_WALL)
        if rng.random() < 0.2:
            canvas.paint(
                window, (loop < 0.6) & (canvas.y[window] < center[1] - 2), T.GAS, T.BOWEL_WALL, filling
            )
    paint_mesentery(canvas, half, front)
    for side in (-1.0, 1.0):
        top = 5.0 if side < 0 else 40.0
        spots = [
            (side * half * float(rng.uniform(0.7, 0.82)), float(rng.uniform(-15, 25)), z) for z in (-130, top)
        ]
        paint_colon(canvas, [(x, y, float(z)) for x, y, z in spots])
    sag = float(rng.uniform(-70, 0))
    ends = (-half * 0.6, -front * 0.5, 0.0), (half * 0.6, -front * 0.5, 25.0)
    paint_colon(canvas, [ends[0], (0.0, -front * 0.72, sag), ends[1]])


def paint_mesentery(canvas: Canvas, half: float, front: float) -> None:
    """Small vessels in the fat between the loops."""
    for _ in range(28):
        start = canvas.rng.uniform((-0.6 * half, -0.6 * front, -120), (0.6 * half, 0.2 * front, 40))
        turns = np.cumsum(canvas.rng.normal(0, 12, (4, 3)), axis=0)
        path: list[Point] = [(float(p[0]), float(p[1]), float(p[2])) for p in start + turns]
        canvas.tube(path, (2.6, 1.2), T.SMALL_VESSEL, T.VISCERAL_FAT)


def paint_colon(canvas: Canvas, path: list[Point]) -> None:
    """One stretch of colon with folds: wall, stool, and gas in front."""
    width = float(canvas.rng.uniform(13, 21))
    fine = np.linspace(0, len(path) - 1, 9)
    points = np.stack([np.interp(fine, range(len(path)), [p[axis] for p in path]) for axis in range(3)], 1)
    for x, y, z in points + canvas.rng.normal(0, 3.0, points.shape):
        window, fold = canvas.ellipsoid((float(x), float(y), float(z)), (width, width, width * 1.1))
        canvas.paint(window, fold < 1, T.BOWEL_WALL, *SOFT, T.BOWEL_WALL, T.BOWEL_FLUID)
        canvas.paint(window, fold < 0.72, T.STOOL, T.BOWEL_WALL, T.BOWEL_FLUID)
        gas: NDArray[np.bool_] = (fold < 0.68) & (canvas.y[window] < y - canvas.rng.uniform(-6, 9))
        canvas.paint(window, gas, T.GAS, T.STOOL)


def paint_great_vessels(canvas: Canvas, patient: Patient) -> None:
    """Aorta left before the spine, vena cava right, and the portal vein to the hilum of the liver."""
    y, rng = patient.spine_y, canvas.rng
    width = float(rng.uniform(8.5, 12.5))
    free = (*SOFT, T.MUSCLE, T.PANCREAS, T.LIVER, T.LUNG, T.BOWEL_WALL, T.BOWEL_FLUID, T.HEART)
    shift = float(rng.normal(8, 3))
    canvas.tube([(shift - 2, y - 29, -140.0), (shift + 4, y - 27, 130.0)], (width, width), T.AORTA, *free)
    wide = float(rng.uniform(9, 13))
    cava = [(-22.0, y - 24, -140.0), (-24.0, y - 28, 0.0), (-24.0, y - 36, 60.0), (-18.0, y - 48, 110.0)]
    canvas.tube(cava, (wide, wide), T.VENA_CAVA, *free, T.LIVER_VESSEL)
    vein = [(70.0, y - 22, 22.0), (10.0, y - 46, -2.0), (-14.0, y - 44, 4.0), (-34.0, y - 42, 20.0)]
    canvas.tube(vein, (5.0, 7.0), T.PORTAL_VEIN, *SOFT, T.PANCREAS, T.LIVER, T.LIVER_VESSEL)
    mesenteric = [(6.0, y - 58, -140.0), (2.0, y - 56, -20.0)]
    canvas.tube(mesenteric, (5.0, 5.0), T.RENAL_VEIN, *SOFT, *BOWEL)


def paint_table(canvas: Canvas, patient: Patient) -> None:
    """The curved top of the scanner's table behind the back."""
    drop = np.float32(patient.half_depth + canvas.rng.uniform(2, 9))
    line = canvas.y + canvas.x**2 / np.float32(canvas.rng.uniform(900, 1600)) - drop
    canvas.paint((slice(None),) * 3, np.abs(line) < 1.4, T.TABLE, T.AIR)


def paint_lesions(canvas: Canvas, count: int) -> int:
    """Round lesions inside the liver; returns how many found a place."""
    placed = 0
    for _ in range(count):
        spots = np.argwhere(canvas.tissue == T.LIVER)
        if not len(spots):
            break
        s, h, w = spots[int(canvas.rng.integers(len(spots)))]
        center = (float(canvas.x[s, h, w]), float(canvas.y[s, h, w]), float(canvas.z[s, h, w]))
        size = float(np.clip(canvas.rng.lognormal(2.5, 0.45), 5, 38))
        radii = (size, size * float(canvas.rng.uniform(0.8, 1.2)), size * float(canvas.rng.uniform(0.8, 1.2)))
        window, shape = canvas.ellipsoid(center, radii)
        rough = smooth_field(canvas.shape, (16, 40, 40), canvas.rng)[window]
        canvas.paint(window, shape + 0.18 * rough < 1, T.LESION, T.LIVER, T.LIVER_VESSEL)
        placed += 1
    return placed
