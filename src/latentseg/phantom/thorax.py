"""Painting a procedural chest, from the domes of the diaphragm to the shoulders; see :func:`paint_chest`.

As in :mod:`latentseg.phantom.organs` the proportions are those of textbook anatomy in supine adults, here
with the arms raised; nothing is copied from a patient. Heights are relative to the carina.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from latentseg.phantom.anatomy import Array, Canvas, Patient, Point, Tissue, smooth_field
from latentseg.phantom.organs import (
    Branching,
    paint_body,
    paint_branches,
    paint_ribs,
    paint_spine,
    paint_table,
)

T = Tissue
CHEST = (T.VISCERAL_FAT, T.MUSCLE)
OUTSIDE = (T.AIR, T.SKIN, T.FAT)
WHOLE = (slice(None),) * 3
PULMONARY = Branching(T.SMALL_VESSEL, T.LUNG, 7, (9, 15), 0.2, (1, 3, 4), 1.6, 0.6, 0.4)


def paint_chest(canvas: Canvas, patient: Patient) -> None:
    """Paint a whole chest onto an empty canvas."""
    patient = replace(
        patient, wall=patient.wall + float(canvas.rng.uniform(2, 14))
    )  # the muscles of the chest
    depth = paint_body(canvas, patient)
    paint_shoulders(canvas, patient)
    paint_seams(canvas)
    paint_spine(canvas, patient)
    lung = paint_lungs(canvas, patient, depth)
    paint_ribs(canvas, patient, depth, margin_mm=-400.0)
    paint_sternum(canvas, patient)
    paint_below(canvas, patient, depth, lung)
    paint_heart(canvas, patient)
    paint_vessels(canvas, patient)
    for side in (-1, 1):
        for _ in range(int(canvas.rng.integers(20, 36))):
            paint_branch(canvas, (side * 34.0, -6.0, -8.0), side)
    paint_nodes(canvas, patient)
    paint_airways(canvas, patient)
    paint_table(canvas, patient)


def paint_shoulders(canvas: Canvas, patient: Patient) -> None:
    """The muscles around the armpits of raised arms, and the shoulder blades behind them."""
    rng, half = canvas.rng, patient.half_width
    bulk, low = float(rng.uniform(0.6, 1.15)), float(rng.uniform(-10, 40))
    for side in (-1, 1):
        center = (side * half * 0.86, float(rng.uniform(-12, 16)), low + 62)
        window, flesh = canvas.ellipsoid(center, (52 * bulk, 40 * bulk, 90))
        canvas.paint(window, flesh < 1.35, T.FAT, T.AIR, T.SKIN)
        canvas.paint(window, flesh < 1, T.MUSCLE, *OUTSIDE)
        window, back = canvas.ellipsoid((side * half * 0.6, patient.half_depth * 0.6, low + 60), (46, 34, 80))
        canvas.paint(window, back < 1, T.MUSCLE, T.SKIN, T.FAT)
        inner, outer = half * float(rng.uniform(0.42, 0.52)), half * float(rng.uniform(0.8, 0.92))
        behind, front = patient.half_depth * 0.78, patient.half_depth * float(rng.uniform(0.2, 0.4))
        for height in np.arange(low + 5, 110, 5.0):
            blade: list[Point] = [
                (side * inner, behind, float(height)),
                (side * (inner + outer) / 2, behind * 0.75 + front * 0.2, float(height)),
                (side * outer, front, float(height)),
            ]
            canvas.tube(blade, (3.0, 5.5), T.RIB, T.MUSCLE, T.FAT)


def paint_seams(canvas: Canvas) -> None:
    """Sheets of fat between the muscles of the wall."""
    sheet = smooth_field(canvas.shape, (5, 14, 14), canvas.rng)
    thin = np.float32(canvas.rng.uniform(0.03, 0.22))
    canvas.paint(WHOLE, np.abs(sheet) < thin, T.FAT, T.MUSCLE)


def paint_lungs(canvas: Canvas, patient: Patient, depth: Array) -> NDArray[np.bool_]:
    """Both lungs beside the mediastinum; returns what lies in the cavity above the diaphragm."""
    rng = canvas.rng
    dome = float(rng.uniform(-105, -70)), float(rng.uniform(-115, -82))
    y = (canvas.y + 8.0) ** 2
    floor = np.where(
        canvas.x < 0,
        dome[0] - ((canvas.x + 66) ** 2 / 90 + y / 110),
        dome[1] - ((canvas.x - 66) ** 2 / 90 + y / 110),
    )
    apex = float(rng.uniform(85, 130)) - ((np.abs(canvas.x) - 52) ** 2 + (canvas.y - 10) ** 2) / 55
    above = (depth > patient.wall + 1) & (canvas.z > floor)
    narrow, deep = float(rng.uniform(27, 40)), patient.half_depth * float(rng.uniform(0.62, 0.8))
    middle = np.hypot((canvas.x - 5) / narrow, (canvas.y + 18) / deep)
    spine = np.hypot(canvas.x / 29, (canvas.y - patient.spine_y - 4) / 27)
    inside = above & (canvas.z < apex) & (middle > 1) & (spine > 1)
    canvas.paint(WHOLE, inside, T.LUNG, *CHEST)
    return np.asarray(above)


def paint_sternum(canvas: Canvas, patient: Patient) -> None:
    """A flat bone in front, with marrow."""
    front = -(patient.half_depth - 0.6 * patient.fat - 0.55 * patient.wall - 3)
    window, plate = canvas.ellipsoid((0, front, 10), (float(canvas.rng.uniform(14, 22)), 7.5, 85))
    canvas.paint(window, plate < 1, T.RIB, T.MUSCLE, T.FAT, *CHEST)
    canvas.paint(window, plate < 0.6, T.MARROW, T.RIB)


def paint_below(canvas: Canvas, patient: Patient, depth: Array, above: NDArray[np.bool_]) -> None:
    """Liver, spleen and stomach under the domes."""
    under = (depth > patient.wall + 1) & ~above
    left = canvas.x > canvas.rng.uniform(5, 40)
    canvas.paint(WHOLE, under & ~left, T.LIVER, *CHEST)
    canvas.paint(WHOLE, under & left & (canvas.y > 10), T.SPLEEN, *CHEST)
    canvas.paint(WHOLE, under & left & (canvas.y <= 6), T.STOMACH_WALL, *CHEST)
    window, bag = canvas.ellipsoid((70, -28, -110), (34, 30, 40))
    canvas.paint(window, bag < 1, T.STOMACH_GAS, T.STOMACH_WALL)


def paint_heart(canvas: Canvas, patient: Patient) -> None:
    """The heart in its fat: a wall of muscle, blood of two densities inside."""
    rng, size = canvas.rng, float(canvas.rng.uniform(0.85, 1.2))
    free = (*CHEST, T.LUNG, T.LIVER, T.STOMACH_WALL)
    center = (float(rng.uniform(12, 26)), -0.32 * patient.half_depth, float(rng.uniform(-70, -50)))
    window, heart = canvas.ellipsoid(center, (58 * size, 44 * size, 48 * size), tilt=-0.15)
    canvas.paint(window, heart < 1.18, T.VISCERAL_FAT, *free)
    canvas.paint(window, heart < 1, T.MUSCLE, T.VISCERAL_FAT)
    canvas.paint(window, (heart < 0.75) & (canvas.x[window] < center[0] - 4), T.HEART, T.MUSCLE)
    chamber, blood = canvas.ellipsoid(
        (center[0] + 24, center[1] + 2, center[2]), (20 * size, 17 * size, 30 * size)
    )
    canvas.paint(chamber, blood < 1, T.AORTA, T.MUSCLE)


def paint_vessels(canvas: Canvas, patient: Patient) -> None:
    """Aorta with its arch, pulmonary arteries, and the upper vena cava, at times full of contrast medium."""
    rng, y = canvas.rng, patient.spine_y
    front = -0.3 * patient.half_depth
    free = (*CHEST, T.LUNG, T.HEART, T.ESOPHAGUS)
    wide = float(rng.uniform(10, 15))
    top = float(rng.uniform(32, 48))
    arch: list[Point] = [
        (14.0, y - 24, -160.0),
        (18.0, y - 24, -20.0),
        (20.0, y - 30, top - 12),
        (14.0, (y - 30 + front) / 2, top),
        (-10.0, front, top - 16),
        (-14.0, front, -20.0),
        (2.0, front + 4, -46.0),
    ]
    canvas.tube(arch, (wide, wide * 1.2), T.AORTA, *free)
    trunk: list[Point] = [(16.0, front - 2, -34.0), (18.0, front + 10, -6.0), (36.0, front + 32, -4.0)]
    canvas.tube(trunk, (wide, wide * 0.7), T.AORTA, *free)
    canvas.tube([(16.0, front + 10, -8.0), (-34.0, front + 28, -10.0)], (10.0, 9.0), T.AORTA, *free)
    blood = T.BOWEL_CONTRAST if rng.random() < 0.35 else T.VENA_CAVA
    canvas.tube([(-24.0, front + 12, -40.0), (-24.0, front + 10, 60.0)], (8.0, 8.0), blood, *free)
    for x in (-30.0, -16.0, 8.0, 22.0):
        canvas.tube([(x * 0.5, front + 8, top), (x, front + 16, 130.0)], (5.0, 4.5), T.AORTA, *CHEST)


def paint_nodes(canvas: Canvas, patient: Patient) -> None:
    """Lymph nodes and other small things in the fat of the mediastinum."""
    rng = canvas.rng
    for _ in range(int(rng.integers(4, 16))):
        center = rng.uniform((-30, -0.5 * patient.half_depth, -40), (40, 0.2 * patient.half_depth, 90))
        size = rng.uniform(2.5, 6.0)
        shape = size * rng.uniform(0.7, 1.6, 3)
        at: Point = (float(center[0]), float(center[1]), float(center[2]))
        window, node = canvas.ellipsoid(at, (float(shape[0]), float(shape[1]), float(shape[2])))
        canvas.paint(window, node < 1, T.MUSCLE, T.VISCERAL_FAT)


def paint_airways(canvas: Canvas, patient: Patient) -> None:
    """Trachea, main bronchi, and the esophagus behind them."""
    y, front = patient.spine_y, -0.1 * patient.half_depth
    every = (*CHEST, T.LUNG, T.SMALL_VESSEL, T.AORTA)
    canvas.tube([(2.0, front, 140.0), (0.0, front + 4, 0.0)], (9.0, 9.0), T.GAS, *every)
    for side in (-1, 1):
        path: list[Point] = [
            (0.0, front + 4, 2.0),
            (side * 22.0, front + 8, -16.0),
            (side * 44.0, 2.0, -34.0),
        ]
        canvas.tube(path, (8.0, 4.5), T.MUSCLE, *CHEST, T.LUNG)
        canvas.tube(path, (6.5, 3.0), T.GAS, T.MUSCLE, *every)
    gullet: list[Point] = [(6.0, y - 32, 140.0), (8.0, y - 34, 0.0), (14.0, y - 38, -140.0)]
    canvas.tube(gullet, (7.0, 8.0), T.ESOPHAGUS, *CHEST)


def paint_branch(canvas: Canvas, root: Point, side: int) -> None:
    """A vessel of the lung with side branches, from the hilum to the periphery."""
    rng = canvas.rng
    heading = np.array([side * rng.uniform(0.1, 1), rng.uniform(-1, 1), rng.uniform(-1, 1)])
    paint_branches(canvas, root, heading, float(rng.uniform(3.0, 6.0)), kind=PULMONARY)
