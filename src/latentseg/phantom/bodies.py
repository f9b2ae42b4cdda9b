"""Procedural abdomens, chests and limbs with known labels, for tests, training and the demonstration.

Anatomy comes from :mod:`latentseg.phantom.anatomy`, :mod:`latentseg.phantom.organs`,
:mod:`latentseg.phantom.thorax` and :mod:`latentseg.phantom.limb`; this module gives the tissues their CT or
MR appearance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import UsageError
from latentseg.imaging.volume import Volume
from latentseg.phantom.anatomy import Array, Canvas, Patient, Tissue, smooth_field
from latentseg.phantom.limb import paint_limb
from latentseg.phantom.organs import paint_all, paint_lesions
from latentseg.phantom.thorax import paint_chest

T = Tissue

LABELS: dict[str, tuple[Tissue, ...]] = {
    "liver": (T.LIVER, T.LIVER_VESSEL),
    "kidney_right": (T.KIDNEY_CORTEX_RIGHT, T.KIDNEY_MEDULLA_RIGHT),
    "kidney_left": (T.KIDNEY_CORTEX_LEFT, T.KIDNEY_MEDULLA_LEFT),
    "spleen": (T.SPLEEN,),
    "stomach": (T.STOMACH_WALL, T.STOMACH_FLUID, T.STOMACH_GAS),
    "gallbladder": (T.GALLBLADDER,),
    "aorta": (T.AORTA,),
    "inferior_vena_cava": (T.VENA_CAVA,),
    "portal_vein": (T.PORTAL_VEIN,),
    "pancreas": (T.PANCREAS,),
    "vertebrae": (T.BONE, T.MARROW),
    "liver_lesion": (T.LESION,),
}
"""Label names of the abdomen, numbered from 1 in this order, and the tissues they are made of."""

CHEST_LABELS: dict[str, tuple[Tissue, ...]] = {
    "lung": (T.LUNG, T.SMALL_VESSEL),
    "liver": (T.LIVER,),
    "spleen": (T.SPLEEN,),
    "stomach": (T.STOMACH_WALL, T.STOMACH_GAS),
    "aorta": (T.AORTA,),
    "vertebrae": (T.BONE, T.MARROW),
}
"""The same of the chest; its aorta holds the pulmonary arteries and the blood of the left heart too."""

LIMB_LABELS: dict[str, tuple[Tissue, ...]] = {"bone": (T.BONE, T.MARROW)}

# tissue: (CT mean HU, CT spread between patients, MR T2 fat-suppressed mean, MR spread), arbitrary MR units
APPEARANCE: dict[Tissue, tuple[float, float, float, float]] = {
    T.AIR: (-1000, 0, 0, 0),
    T.SKIN: (20, 10, 90, 30),
    T.FAT: (-105, 6, 60, 20),
    T.VISCERAL_FAT: (-100, 8, 50, 20),
    T.MUSCLE: (58, 7, 95, 15),
    T.LUNG: (-830, 40, 14, 6),
    T.HEART: (125, 20, 90, 30),
    T.BONE: (330, 60, 45, 15),
    T.SMALL_VESSEL: (120, 25, 110, 40),
    T.MARROW: (150, 35, 80, 20),
    T.DISC: (85, 12, 130, 60),
    T.CANAL: (30, 8, 380, 60),
    T.LIVER: (108, 16, 170, 30),
    T.LIVER_VESSEL: (160, 18, 270, 60),
    T.GALLBLADDER: (10, 8, 420, 60),
    T.SPLEEN: (122, 14, 300, 45),
    T.KIDNEY_CORTEX_RIGHT: (190, 25, 340, 40),
    T.KIDNEY_MEDULLA_RIGHT: (160, 30, 300, 40),
    T.STOMACH_WALL: (75, 15, 210, 50),
    T.STOMACH_FLUID: (30, 15, 300, 110),
    T.STOMACH_GAS: (-900, 30, 15, 5),
    T.GAS: (-900, 30, 15, 5),
    T.AORTA: (165, 25, 55, 25),
    T.VENA_CAVA: (140, 22, 80, 40),
    T.PORTAL_VEIN: (168, 18, 120, 70),
    T.RENAL_VEIN: (160, 20, 110, 60),
    T.PANCREAS: (92, 14, 200, 40),
    T.BOWEL_WALL: (80, 14, 230, 50),
    T.BOWEL_FLUID: (22, 10, 300, 90),
    T.BOWEL_CONTRAST: (330, 90, 330, 120),
    T.STOOL: (45, 35, 170, 60),
    T.TABLE: (120, 60, 0, 0),
    T.RIB: (330, 70, 55, 15),
    T.LESION: (55, 18, 300, 60),
    T.ESOPHAGUS: (60, 10, 150, 40),
}
HOUNSFIELD = {tissue: (row[0], row[1]) for tissue, row in APPEARANCE.items()}
T2_WEIGHTED = {tissue: (row[2], row[3]) for tissue, row in APPEARANCE.items()}
T1_WEIGHTED: dict[Tissue, tuple[float, float]] = {
    T.SKIN: (150, 40),
    T.FAT: (390, 50),
    T.MUSCLE: (130, 25),
    T.BONE: (25, 12),
    T.MARROW: (330, 60),
    T.AORTA: (60, 50),
    T.VENA_CAVA: (90, 60),
}
"""MR mean and spread where fat is not suppressed, in the same units."""

GRAINY = (T.STOOL, T.MARROW, T.RIB, T.STOMACH_FLUID, T.BOWEL_WALL, T.PANCREAS, T.LESION)


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic patient.

    Attributes:
        image: CT in HU (int16) or MR in arbitrary units (int16), axis codes LPS.
        labels: uint8 label map on the same grid.
        names: label value to name.
    """

    image: Volume
    labels: Volume
    names: dict[int, str]


def abdomen(
    *,
    seed: int,
    modality: Literal["CT", "MR"] = "CT",
    shape: tuple[int, int, int] = (256, 256, 32),
    lesions: int = 0,
) -> Phantom:
    """Make a patient: the same seed gives the same anatomy in CT and in MR.

    Args:
        seed: any non-negative integer; another seed is another patient.
        modality: ``"CT"`` portal-venous, or ``"MR"`` T2-weighted with fat suppression.
        shape: `(I, J, K)` = columns, rows, slices; the field of view (about 35x35x20 cm) does not
            depend on it.
        lesions: number of liver lesions.

    Returns:
        Image, labels and names. A name whose organ does not occur (no gallbladder, no lesion) keeps its
        number.

    Raises:
        UsageError: an unknown modality, or a grid below 16x16x1.
    """

    def paint(canvas: Canvas, patient: Patient) -> None:
        paint_all(canvas, patient)
        paint_lesions(canvas, lesions)

    return _painted(paint, LABELS, key=(seed, 20), modality=modality, shape=shape)


def chest(
    *, seed: int, modality: Literal["CT", "MR"] = "CT", shape: tuple[int, int, int] = (256, 256, 32)
) -> Phantom:
    """Make the chest of a patient, from the domes of the diaphragm to the shoulders.

    Args:
        seed: as for :func:`abdomen`; the chest of a seed does not belong to its abdomen.
        modality: as for :func:`abdomen`.
        shape: `(I, J, K)` = columns, rows, slices.

    Raises:
        UsageError: an unknown modality, or a grid below 16x16x1.
    """
    return _painted(paint_chest, CHEST_LABELS, key=(seed, 30), modality=modality, shape=shape)


def limb(
    *, seed: int, modality: Literal["CT", "MR"] = "MR", shape: tuple[int, int, int] = (256, 256, 32)
) -> Phantom:
    """Make a thigh, leg or arm.

    Args:
        seed: as for :func:`abdomen`; the limb of a seed does not belong to its abdomen.
        modality: ``"CT"``, or ``"MR"`` T1-weighted, fat being bright.
        shape: `(I, J, K)` = columns, rows, slices.

    Raises:
        UsageError: an unknown modality, or a grid below 16x16x1.
    """
    return _painted(paint_limb, LIMB_LABELS, key=(seed, 40), modality=modality, shape=shape, mr=T1_WEIGHTED)


def _painted(
    paint: Callable[[Canvas, Patient], None],
    tissues: Mapping[str, tuple[Tissue, ...]],
    *,
    key: tuple[int, int],
    modality: Literal["CT", "MR"],
    shape: tuple[int, int, int],
    mr: Mapping[Tissue, tuple[float, float]] = T2_WEIGHTED,
) -> Phantom:
    """A patient drawn from a key, painted and scanned."""
    if modality not in ("CT", "MR"):
        raise UsageError(f"unknown phantom modality '{modality}'", fix="Use CT or MR")
    if len(shape) != 3 or min(shape[:2]) < 16 or shape[2] < 1:
        raise UsageError(f"a phantom cannot have the shape {shape}", fix="Use at least (16, 16, 1)")
    seed, body = key
    rng = np.random.default_rng([seed, body])
    patient = Patient.draw(rng)
    width_mm = 2 * patient.half_width * float(rng.uniform(1.04, 1.3))
    canvas = Canvas((shape[2], shape[1], shape[0]), width_mm, rng)
    paint(canvas, patient)
    contrasts = np.random.default_rng([seed, body + 1, modality == "MR"])
    values = _ct(canvas, contrasts) if modality == "CT" else _mr(canvas, contrasts, mr)
    affine = _affine(canvas)
    names = dict(enumerate(tissues, start=1))
    image = Volume(array=_to_file_order(values), affine_ras_mm=affine, modality=modality)
    labels = Volume(array=_to_file_order(_label_table(tissues)[canvas.tissue]), affine_ras_mm=affine)
    return Phantom(image=image, labels=labels, names=names)


def _affine(canvas: Canvas) -> NDArray[np.float64]:
    """LPS voxel axes with the world's origin at the middle of the grid."""
    s, h, w = canvas.spacing_mm
    steps = np.array([-w, -h, s])
    center = (np.array(canvas.shape[::-1]) - 1) / 2
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -steps * center
    return affine


def _to_file_order(slices: NDArray[Any]) -> NDArray[Any]:
    """`(S, H, W)` to `(I, J, K)`."""
    return np.ascontiguousarray(slices.transpose(2, 1, 0))


def _label_table(tissues: Mapping[str, tuple[Tissue, ...]]) -> NDArray[np.uint8]:
    table = np.zeros(len(Tissue), np.uint8)
    for value, parts in enumerate(tissues.values(), start=1):
        table[list(parts)] = value
    return table


def _mean_of_tissues(rng: np.random.Generator, values: Mapping[Tissue, tuple[float, float]]) -> Array:
    """This patient's mean value of every tissue; both kidneys share theirs."""
    table = np.zeros(len(Tissue), np.float32)
    for tissue, (mean, spread) in values.items():
        table[tissue] = mean + float(np.clip(rng.normal(0, 1), -2, 2)) * spread
    table[T.KIDNEY_CORTEX_LEFT] = table[T.KIDNEY_CORTEX_RIGHT]
    table[T.KIDNEY_MEDULLA_LEFT] = table[T.KIDNEY_MEDULLA_RIGHT]
    return table


def _textured(canvas: Canvas, rng: np.random.Generator, means: Array, grain: float) -> Array:
    """Tissue means plus texture: coarse in grainy tissues, fine elsewhere, blurred like a scanner does."""
    from scipy import ndimage  # a tenth of a second that reading a file need not pay

    rough = np.full(len(Tissue), 0.25 * grain, np.float32)
    rough[list(GRAINY)] = grain
    rough[[T.AIR, T.GAS, T.STOMACH_GAS, T.TABLE]] = 0
    texture = ndimage.zoom(rng.standard_normal(_halved(canvas.shape), dtype=np.float32), 2, order=1)
    texture = texture[tuple(slice(n) for n in canvas.shape)]
    values = means[canvas.tissue] + rough[canvas.tissue] * texture
    pixels = 0.75 * max(canvas.shape[1:]) / 256
    return np.asarray(ndimage.gaussian_filter(values, (0, pixels, pixels), truncate=2.5), np.float32)


def _halved(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    s, h, w = ((n + 1) // 2 for n in shape)
    return s, h, w


def _noise(canvas: Canvas, rng: np.random.Generator) -> Array:
    """Unit noise, correlated between neighboring pixels as after reconstruction."""
    white = rng.standard_normal(canvas.shape, dtype=np.float32)
    return 0.5 * white + 0.5 * (np.roll(white, 1, 1) + np.roll(white, 1, 2))


def _ct(canvas: Canvas, rng: np.random.Generator) -> NDArray[np.int16]:
    values = _textured(canvas, rng, _mean_of_tissues(rng, HOUNSFIELD), grain=28.0)
    values += _noise(canvas, rng) * np.float32(rng.uniform(6, 16))
    return np.clip(np.rint(values), -1024, 3071).astype(np.int16)


def _mr(
    canvas: Canvas, rng: np.random.Generator, appearance: Mapping[Tissue, tuple[float, float]]
) -> NDArray[np.int16]:
    values = _textured(canvas, rng, _mean_of_tissues(rng, appearance), grain=45.0)
    bias = 1 + 0.22 * smooth_field(canvas.shape, (2, 3, 3), rng)
    values *= np.clip(bias, 0.4, 1.8)
    level = np.float32(rng.uniform(7, 16))
    real, imaginary = values + level * _noise(canvas, rng), level * _noise(canvas, rng)
    magnitude: Array = np.hypot(real, imaginary)
    return np.rint(magnitude).astype(np.int16)
