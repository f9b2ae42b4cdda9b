"""Examples of synthetic lesions for the documentation, in synthetic anatomy: ``docs/images/lesions.png``.

Usage: ``python benchmarks/tumor_lesions.py [--columns 6] [--output FILE]``. Slices of phantoms, CT and MR,
with a lesion each; below each row the same with outlines.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentseg.imaging import fit_square, normalize, to_canonical
from latentseg.imaging.files import written_whole
from latentseg.phantom.bodies import abdomen
from latentseg.training.tumor.lesions import Lesion, LesionOptions, add_lesion

SIZE = 160  # pixels of an example
ORGANS = ("liver", "spleen", "kidney_right", "kidney_left", "liver", "liver")


def example(seed: int, modality: Literal["CT", "MR"]) -> Lesion:
    """A lesion in an organ of a phantom."""
    phantom = abdomen(seed=seed, modality=modality, shape=(200, 200, 9))
    canonical = to_canonical(phantom.image)
    values, _ = fit_square(normalize(canonical.slices, modality=modality), SIZE)
    labels, _ = fit_square(canonical.apply(phantom.labels.array), SIZE, kind="mask")
    rng = np.random.default_rng(seed)
    wanted = ORGANS[seed % len(ORGANS)]
    label = next((n for n, name in phantom.names.items() if name == wanted), min(phantom.names))
    middle = int(np.argmax((labels == label).sum((1, 2))))
    organ = labels[middle] == label
    room = values[middle] > -0.9 if rng.random() < 0.4 else None
    return add_lesion(
        values[middle].astype(np.float32), organ, rng, room=room, options=LesionOptions(radius=(5, 22))
    )


def picture(lesion: Lesion, *, outlined: bool) -> NDArray[np.uint8]:
    """``(H, W, 3)``, its outline in red."""
    grey = np.clip((lesion.image + 1) * 127.5, 0, 255).astype(np.uint8)
    colored = np.repeat(grey[..., None], 3, 2)
    if outlined:
        inside = lesion.mask
        border = inside & ~(np.roll(inside, 1, 0) & np.roll(inside, -1, 0) & np.roll(inside, 1, 1))
        colored[border] = (230, 60, 40)
    return colored


def main() -> None:
    """Draw the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path("docs/images/lesions.png"))
    options = parser.parse_args()
    rows = []
    for first, modality in ((0, "CT"), (options.columns, "MR")):
        lesions = [example(first + k, "CT" if modality == "CT" else "MR") for k in range(options.columns)]
        rows += [
            np.concatenate([picture(lesion, outlined=outlined) for lesion in lesions], 1)
            for outlined in (False, True)
        ]
    page = Image.fromarray(np.concatenate(rows, 0)).quantize(48)
    with written_whole(options.output) as temporary:
        page.save(temporary, format="PNG", optimize=True)
    sys.stdout.write(f"{options.output}: {options.output.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
