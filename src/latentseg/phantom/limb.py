"""Painting a procedural limb, a thigh, leg or arm, crossed by the slices; see :func:`paint_limb`."""

from __future__ import annotations

import numpy as np

from latentseg.phantom.anatomy import Canvas, Patient, Point, Tissue, smooth_field

T = Tissue
WHOLE = (slice(None),) * 3
INSIDE = (T.MUSCLE, T.FAT)


def paint_limb(canvas: Canvas, patient: Patient) -> None:
    """Paint a limb onto an empty canvas, at times with its neighbor in view."""
    rng = canvas.rng
    thick = patient.half_width * float(rng.uniform(0.45, 0.75))
    beside = float(rng.uniform(1.9, 2.2)) * thick if rng.random() < 0.35 else 0.0
    centers = [-beside / 2, beside / 2] if beside else [0.0]
    bones = 1 if rng.random() < 0.6 else 2
    for x in centers:
        paint_flesh(canvas, x, thick / (1.6 if beside else 1.0), patient.fat)
    paint_compartments(canvas)
    for x in centers:
        paint_shafts(canvas, x, thick / (1.6 if beside else 1.0), bones)


def paint_flesh(canvas: Canvas, x: float, thick: float, fat: float) -> None:
    """Skin, the fat below it, and muscle."""
    rng = canvas.rng
    depth = thick * float(rng.uniform(0.8, 1.05))
    tilt = float(rng.normal(0, 0.08))
    window, outline = canvas.ellipsoid((x, 0, 0), (thick, depth, 4000), tilt=tilt)
    radius = np.sqrt(outline) * (1 + 0.05 * smooth_field(canvas.shape, (3, 5, 5), rng)[window])
    below = 1 - min(fat * float(rng.uniform(0.4, 1.4)), 0.5 * thick) / thick
    canvas.paint(window, radius < 1, T.SKIN, T.AIR)
    canvas.paint(window, radius < 1 - 2 / thick, T.FAT, T.SKIN)
    canvas.paint(window, radius < below, T.MUSCLE, T.FAT)


def paint_compartments(canvas: Canvas) -> None:
    """Sheets of fat between muscles, wide ones between groups and thin ones within."""
    rng = canvas.rng
    for knots, widest in ((5, 0.16), (12, 0.08)):
        sheet = smooth_field(canvas.shape, (3, knots, knots), rng)
        canvas.paint(WHOLE, np.abs(sheet) < np.float32(rng.uniform(0.02, widest)), T.FAT, T.MUSCLE)


def paint_shafts(canvas: Canvas, x: float, thick: float, bones: int) -> None:
    """One or two long bones with marrow, arteries and veins, and small vessels below the skin."""
    rng = canvas.rng
    for number in range(bones):
        width = thick * float(rng.uniform(0.13, 0.24)) / (1 if number == 0 else 1.8)
        at = x + float(rng.normal(0, 0.12)) * thick, float(rng.normal(0, 0.15)) * thick
        if number:
            at = at[0] + thick * float(rng.choice([-0.4, 0.4])), at[1] + 0.2 * thick
        tilt = float(rng.normal(0, 0.05))
        window, shaft = canvas.ellipsoid((*at, 0), (width, width, 4000), tilt=tilt)
        canvas.paint(window, shaft < 1, T.BONE, *INSIDE)
        canvas.paint(window, shaft < float(rng.uniform(0.3, 0.65)), T.MARROW, T.BONE)
    for _ in range(int(rng.integers(6, 16))):
        far, angle = thick * float(rng.uniform(0.25, 0.9)), float(rng.uniform(0, 2 * np.pi))
        start = x + far * np.cos(angle), far * np.sin(angle)
        shift = rng.normal(0, 14, 2)
        path: list[Point] = [
            (float(start[0]), float(start[1]), -150.0),
            (float(start[0] + shift[0]), float(start[1] + shift[1]), 150.0),
        ]
        width = float(rng.uniform(1.2, 4.5))
        blood = T.AORTA if rng.random() < 0.4 else T.VENA_CAVA
        canvas.tube(path, (width, width), blood, *INSIDE)
