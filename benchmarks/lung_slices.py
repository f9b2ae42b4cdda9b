"""Public slices and patches of lungs with outlined tumors, as files that ``configs/pack-lung.yaml`` packs.

Usage: ``python benchmarks/lung_slices.py [--lidc FOLDER] [--crops FOLDER] [--cubes FOLDER]
[--msd FILE.h5 FILE.h5] [--dx FOLDER] [--eye]`` (MSD
needs h5py); they are written to ``lung_slices`` below ``LATENTSEG_DATA``.

* LIDC-IDRI (CC BY 3.0), lungs cut out and grey values standardized: ``vinibfr/LIDC-IDRI-Preprocessing`` on
  GitHub, commit 9c54b8ab, ``data``. Lungs come to -860 HU, the chest wall to 40 HU, and what was cut away
  becomes tissue and, farther out, air. Patients that ``configs/split.yaml``
  keeps back, 0001 to 0003, are left out.
* LIDC-IDRI (CC BY 3.0), 90 mm around nodules of 875 patients, slice by slice, with the outlines of four
  radiologists, grey values stretched in each: ``nikeboke/lidc_project``, commit 773f8ad9,
  ``data/LIDC-IDRI-slices``. Those that three of them outlined, 5 mm and wider, in one slice or two; air comes
  to -860 HU and tissue to 30. Nine, turned at random, make a picture. Distances of pixels are lost and are
  taken for 0.7 mm, which is their median. The patients that are kept back are left out.
* LIDC-IDRI (CC BY 3.0), cubes of 51 mm around a nodule each, outlined: ``Pulmonary-nodules-analysis`` of
  ``franciscapessanha``, commit 0c693b4a, ``images`` and ``masks``; for ``lung_parts.py``. That they hold
  HU from -1200 to 400 and steps of 1 mm is not said there and follows from their lungs and tissue. The first
  numbers, which are those of the first patients, are left out.
* MSD Task06 (CC BY-SA 4.0), patches of 48 x 48 pixels of 2 mm of 26 patients: ``shizoda/data``, commit
  58a8c54a, ``msd/lung_2mm/val_patches.h5`` and ``test_patches.h5``. Nine, turned at random, make a picture.
* Lung-PET-CT-Dx (CC BY 4.0), two patients with lung cancer, each with a soft and a sharp kernel:
  ``huyenbui117/lung_CT`` on GitHub, commit 520adfe9. What is solid in the boxes of the annotations is the
  tumor; slices without boxes, but for the two beside them, are taken for healthy.
* Slices of ``LATENTSEG_DATA`` that ``lung_outlines.json`` names, of no patient that is kept back: masses that
  are plain to see were circled **by eye, by no radiologist**, and what is solid in a circle is the tumor; on
  slices without circles nothing was seen. Circles are columns, rows and radii on the square of the lungs.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu

from latentseg.evaluation.datasets.base import data_root
from latentseg.imaging import Volume, read, to_canonical, write_like
from latentseg.methods.tumor.lung_field import hounsfield, lung_field

HELD_OUT = ("0001", "0002", "0003")
LUNG_HU, AIR_HU, RANGE_HU = -860.0, -1000.0, 900.0
FIRST_CUBE, CUBE_HU = 5, (-1200.0, 400.0)  # number, and what is 0 and 1 in a cube
FRAME = 20  # pixels around nine patches
READERS, SMALLEST = 3, 60  # of a nodule, of four, and pixels of it in the largest slice
HALF, TISSUE, TISSUE_HU = (
    64,
    0.12,
    30.0,
)  # edge of half of the size; share of a picture, from which tissue is its median
SIZE, SOLID_HU = 256, -450.0
OUTLINES = Path(__file__).with_name("lung_outlines.json")
BOX = r"\s*".join(rf"<{side}>(\d+)</{side}>" for side in ("xmin", "ymin", "xmax", "ymax"))
Slice = NDArray[np.float64]
Box = tuple[slice, slice]


class Patch(NamedTuple):
    """A square of a lung in HU, and the tumor in it."""

    hu: Slice
    mask: NDArray[np.bool_]


class Look(NamedTuple):
    """Of pictures of patches: size of a pixel, how many each patch is in, widths of their blur in pixels."""

    pixel_mm: float
    turns: int
    blur: tuple[float, float]


def write(path: Path, hu: Slice, mask: NDArray[np.bool_], pixel_mm: float, step_mm: float = 5.0) -> None:
    """Write a slice ``(rows, columns)``, or a stack of them from below, and its mask."""
    affine = np.diag([-pixel_mm, -pixel_mm, step_mm, 1.0])
    stack, label = (np.atleast_3d(one.T) if one.ndim == 2 else one.T for one in (hu, mask.astype(np.uint8)))
    scan = Volume(np.ascontiguousarray(stack.clip(-1024, 1300)).astype(np.int16), affine, "CT")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_like(scan.array, like=scan, path=path.with_name(f"{path.name}.nii.gz"), kind="image")
    write_like(label, like=scan, path=path.with_name(f"{path.name}_label.nii.gz"), kind="mask")


def whole_chest(grey: Slice, rng: np.random.Generator) -> Slice:
    """HU of a slice whose lungs were cut out, with a body around them."""
    values, counts = np.unique(grey, return_counts=True)
    outside = ndimage.binary_opening(grey == values[counts.argmax()], iterations=2)
    inside = ~outside
    dark = inside & (grey < np.percentile(grey[inside], 60))
    lung, wall = np.median(grey[dark]), np.percentile(grey[inside], 93)
    hu = LUNG_HU + (grey - lung) / (wall - lung) * RANGE_HU
    hu[outside] = rng.normal(20, 15, outside.sum())
    joined = ndimage.binary_closing(np.pad(inside, 40), iterations=40)
    body = ndimage.binary_dilation(ndimage.binary_fill_holes(joined), iterations=30)[40:-40, 40:-40]
    hu[~body] = AIR_HU
    return np.asarray(hu)


def lidc(folder: Path, out: Path) -> None:
    """Slices of LIDC-IDRI."""
    rng = np.random.default_rng(0)
    for path in sorted(folder.glob("Image/LIDC-IDRI-*/*.npy")):
        if path.parent.name[-4:] not in HELD_OUT:
            mask = folder / "Mask" / path.parent.name / path.name.replace("_NI", "_MA")
            write(out / path.stem, whole_chest(np.load(path), rng), np.load(mask) > 0, 0.7)


def mosaics(path: Path, out: Path, rng: np.random.Generator) -> None:
    """Patches of MSD, nine a picture, each patch in three of them."""
    import h5py  # type: ignore[import-not-found]

    with h5py.File(path) as file:
        images, masks = file["images"][:, 0], file["labels"][:, 0] > 0
    patches = [Patch(-950 + one * 1050, mask) for one, mask in zip(images, masks, strict=True)]
    write_mosaics(patches, out / path.stem, rng, Look(2.0, 3, (0.3, 0.8)))


def crops(folder: Path, out: Path, rng: np.random.Generator) -> None:
    """Nodules of LIDC-IDRI with what is around them, nine a picture, each in two of them."""
    patches = []
    for nodule in sorted(folder.glob("LIDC-IDRI-*/nodule-*")):
        if nodule.parent.name[-4:] in HELD_OUT:
            continue
        readers = np.stack([stacked(nodule / f"mask-{reader}") > 0 for reader in range(4)])
        mask = readers.sum(0) >= 2
        areas = mask.sum((1, 2))
        if readers.any((1, 2, 3)).sum() < READERS or areas.max() < SMALLEST:
            continue
        grey = stacked(nodule / "images")
        large = np.flatnonzero(areas >= areas.max() / 2)
        chosen = {int(areas.argmax()), int(rng.choice(large))}
        for one, own in ((grey[number], mask[number]) for number in sorted(chosen)):
            small = one.reshape(HALF, 2, HALF, 2).mean((1, 3))
            patches.append(Patch(nodule_hu(small), own.reshape(HALF, 2, HALF, 2).mean((1, 3)) >= 0.5))
    write_mosaics(patches, out / "lidc", rng, Look(1.4, 2, (0.01, 0.6)))


def stacked(folder: Path) -> NDArray[np.float64]:
    """Pictures ``slice-N.png`` of a folder, by their number."""
    files = sorted(folder.glob("*.png"), key=lambda path: int(path.stem.split("-")[1]))
    return np.stack([np.asarray(Image.open(file).convert("L"), float) for file in files])


def nodule_hu(grey: Slice) -> Slice:
    """HU of a picture around a nodule, from the grey of its air and of its tissue."""
    dark = grey < threshold_otsu(grey)
    lung, bright = np.median(grey[dark]), grey[~dark]
    tissue = np.median(bright) if (~dark).mean() >= TISSUE else np.percentile(bright, 80)
    return np.asarray(LUNG_HU + (grey - lung) / (tissue - lung) * (TISSUE_HU - LUNG_HU))


def cubes(folder: Path, out: Path) -> None:
    """Nodules of LIDC-IDRI in three dimensions."""
    for path in sorted(folder.glob("images/*.npy")):
        number = int(path.name.split("_")[0])
        if number < FIRST_CUBE:
            continue
        both = path, folder / "masks" / path.name
        image, mask = (np.moveaxis(np.load(file), 2, 0) for file in both)
        hu = CUBE_HU[0] + image * (CUBE_HU[1] - CUBE_HU[0])
        write(out / f"{number:04d}", hu, mask > 0.5, 1.0, 1.0)


def write_mosaics(patches: Sequence[Patch], path: Path, rng: np.random.Generator, look: Look) -> None:
    """Write square patches, nine a picture."""
    side = len(patches[0].hu)
    edge, number = 2 * FRAME + 3 * side, 0
    for _ in range(look.turns):
        order = rng.permutation(len(patches))
        for start in range(0, len(patches) - 8, 9):
            hu, mask = np.full((edge, edge), 20.0), np.zeros((edge, edge), bool)
            for place, index in enumerate(order[start : start + 9]):
                row, column = (FRAME + side * n for n in divmod(place, 3))
                turn, flip = int(rng.integers(4)), rng.random() < 0.5
                one, two = (np.rot90(array, turn)[:, :: -1 if flip else 1] for array in patches[index])
                box = slice(row, row + side), slice(column, column + side)
                hu[box] = ndimage.gaussian_filter(one, rng.uniform(*look.blur))
                mask[box] = two
            padded = np.pad(hu, 30, constant_values=AIR_HU)
            write(path.with_name(f"{path.name}_{number:03d}"), padded, np.pad(mask, 30), look.pixel_mm)
            number += 1


def lung_dx(folder: Path, out: Path) -> None:
    """Series of Lung-PET-CT-Dx with the boxes, and slices with what is solid in them, of half the size."""
    import pydicom

    boxes = {path.stem: corners_of(path) for path in folder.glob("Annotation/*/*.xml")}
    for series in sorted({path.parent for path in folder.glob("Lung-PET-CT-Dx/**/*.dcm")}):
        slices = [pydicom.dcmread(path) for path in series.glob("*.dcm")]
        slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
        raw = [one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices]
        hu = np.stack(raw).reshape(-1, 256, 2, 256, 2).mean((2, 4))
        inside = np.zeros(hu.shape, bool)
        for number, one in enumerate(slices):
            for box in boxes.get(one.SOPInstanceUID, ()):
                inside[number][box] = True
        outlined = inside.any((1, 2))
        name, pixel_mm = f"{series.parts[-3]}_{series.name[:1]}", 2 * float(slices[0].PixelSpacing[0])
        step_mm = np.median(np.diff([float(one.ImagePositionPatient[2]) for one in slices]))
        write(out / "dx" / name, hu, inside, pixel_mm, float(step_mm))
        for number in np.flatnonzero(outlined | ~ndimage.binary_dilation(outlined, iterations=2)):
            mask = solid_in(hu[number], boxes.get(slices[number].SOPInstanceUID, ()))
            if mask.any() or not outlined[number]:
                kind = "dx-masses" if mask.any() else "dx-clear"
                write(out / kind / f"{name}_{number:03d}", hu[number], mask, pixel_mm)


def corners_of(annotation: Path) -> list[Box]:
    """Boxes of an annotation (Pascal VOC), of a slice of half the size."""
    found = re.findall(BOX, annotation.read_text(encoding="utf-8"))
    sides = [[int(side) // 2 for side in corners] for corners in found]
    return [(slice(y0, y1 + 1), slice(x0, x1 + 1)) for x0, y0, x1, y1 in sides]


def solid_in(hu: Slice, boxes: Sequence[Box]) -> NDArray[np.bool_]:
    """The largest solid piece in each box."""
    mask = np.zeros(hu.shape, bool)
    for box in boxes:
        solid = ndimage.gaussian_filter(hu, 0.7)[box] > SOLID_HU
        parts, count = ndimage.label(solid)
        if count:
            largest = 1 + np.argmax(ndimage.sum_labels(solid, parts, range(1, count + 1)))
            mask[box] |= ndimage.binary_fill_holes(parts == largest)
    return mask


def by_eye(out: Path) -> None:
    """Slices with what was circled."""
    root = data_root()
    for name, slices in json.loads(OUTLINES.read_text(encoding="utf-8")).items():
        canonical = to_canonical(read(root / name, modality="CT"))
        hu = hounsfield(canonical.slices)
        if hu is None:
            continue
        stem, pixel_mm = name.split("/")[-1].split(".")[0], canonical.spacing_mm[1]
        for index, circles in slices.items():
            one = hu[int(index)].astype(np.float64)
            path = out / ("masses" if circles else "clear") / f"{stem}_{int(index):03d}"
            write(path, one, circled(one, circles, pixel_mm), pixel_mm)


def circled(hu: Slice, circles: Sequence[Sequence[float]], pixel_mm: float) -> NDArray[np.bool_]:
    """What is solid within circles on the square of the lungs, the largest piece of each."""
    affine = np.diag([-pixel_mm, -pixel_mm, 5.0, 1.0])
    field = lung_field(Volume(hu.T[:, :, None].astype(np.float32), affine, "CT"), SIZE)
    mask = np.zeros((SIZE, SIZE), np.float32)
    if field is None or not circles:
        return np.zeros(hu.shape, bool)
    solid = ndimage.gaussian_filter(field.seen.images[0], 1) > 2 * (SOLID_HU + 1000) / 1400 - 1
    rows, columns = np.indices(mask.shape)
    for column, row, radius in circles:
        near = solid & (np.hypot(rows - row, columns - column) <= radius)
        parts, count = ndimage.label(ndimage.binary_opening(near, iterations=max(round(radius / 8), 1)))
        if count:
            largest = 1 + np.argmax(ndimage.sum_labels(near, parts, range(1, count + 1)))
            mask[ndimage.binary_fill_holes(parts == largest)] = 1
    return np.asarray(field.seen.undo(mask[None])[0] > 0.5)


def main() -> None:
    """Convert what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lidc", type=Path, help="The folder `data` of the repository.")
    parser.add_argument("--crops", type=Path, help="The folder `LIDC-IDRI-slices` of the repository.")
    parser.add_argument("--cubes", type=Path, help="The folder of the repository of cubes.")
    parser.add_argument("--msd", type=Path, nargs="+", default=[])
    parser.add_argument("--dx", type=Path, help="The folder of the repository of Lung-PET-CT-Dx.")
    parser.add_argument("--eye", action="store_true", help="Slices of `lung_outlines.json`.")
    options = parser.parse_args()
    out, rng = data_root() / "lung_slices", np.random.default_rng(0)
    if options.lidc:
        lidc(options.lidc, out / "lidc")
    if options.crops:
        crops(options.crops, out / "crops", np.random.default_rng(1))
    if options.cubes:
        cubes(options.cubes, out / "cubes")
    for path in options.msd:
        mosaics(path, out / "msd", rng)
    if options.dx:
        lung_dx(options.dx, out)
    if options.eye:
        by_eye(out / "eye")


if __name__ == "__main__":
    main()
