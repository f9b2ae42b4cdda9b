"""Slices of a scan that can be scrolled on a page: a limited number, all in one picture."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentseg.imaging.previews import Color
from latentseg.imaging.windows import Window

TILE = 288  # pixels of the longer side of a slice
MOST = 40  # slices of a scan, unless told
FEWEST = 8
GREY_BYTES = 18_000  # of a slice on the page, in base64: the most that was seen, in noisy abdomens
RESULT_BYTES = 3_000  # of one target on it: what was found, the truth, the probability
PAGE_BYTES = 40_000_000  # of all slices of a page
QUALITY = 80  # of JPEG
COLUMNS = 8
MARGIN = 0.15  # of the length of what was found, shown beyond it at either end
HEAT_LEVELS = 16  # of a probability

CT_LEVELS = ((-1100.0, 0), (-200.0, 56), (300.0, 224), (1500.0, 255))
"""HU and greys of a stored slice: 3 HU a grey level in soft tissue, 16 in lungs, 39 in bone."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices of one scan.

    Attributes:
        name: Identifies them on the page.
        sheet: JPEG of all slices, `COLUMNS` in a row.
        size: Width and height of a slice in pixels.
        names: What each slice is called.
        levels: Intensity and grey at the corners of a line between them; ascending.
        unit: Of intensities, such as ``HU``.
        windows: What is drawn black and white, the first one unless told.
    """

    name: str
    sheet: bytes
    size: tuple[int, int]
    names: tuple[str, ...]
    levels: tuple[tuple[float, int], ...]
    unit: str
    windows: tuple[Window, ...]


@dataclass(frozen=True, eq=False)
class Overlay:
    """What is drawn over the slices of a stack.

    Attributes:
        name: What it is called.
        sheet: PNG on the grid of the stack: white is inside, or grey a probability.
        color: Of a mask.
        heat: Whether it is a probability.
        shown: Whether it is drawn at first.
    """

    name: str
    sheet: bytes
    color: Color = (255, 255, 255)
    heat: bool = False
    shown: bool = True


@dataclass(frozen=True, eq=False)
class Viewer:
    """A stack with what was found on it, which a reader scrolls.

    Attributes:
        stack: The slices.
        overlays: What is drawn over them, the first one lowest.
        first: The slice that is shown at first.
        window: Name of the window that is shown at first; default: the first of the stack.
    """

    stack: Stack
    overlays: Sequence[Overlay] = ()
    first: int = 0
    window: str = ""

    @property
    def plan(self) -> Mapping[str, object]:
        """What the script of the page has to know."""
        stack = self.stack
        return {
            "size": stack.size,
            "columns": COLUMNS,
            "names": stack.names,
            "levels": stack.levels,
            "unit": stack.unit,
            "windows": [[window.name, window.low, window.high] for window in stack.windows],
            "window": self.window or stack.windows[0].name,
            "first": self.first,
            "overlays": [
                {"name": one.name, "color": one.color, "heat": one.heat, "shown": one.shown}
                for one in self.overlays
            ],
        }


@dataclass(frozen=True)
class Room:
    """How many slices may be scrolled on a page.

    Attributes:
        most: Of one scan; 0 for none.
        page_bytes: Of all scans together.
    """

    most: int = MOST
    page_bytes: int = PAGE_BYTES

    def shares(self, scans: Iterable[str]) -> dict[str, int]:
        """Slices of each scan, in the order in which they matter: late ones get none where room runs out.

        Args:
            scans: The scan of each result; one of several targets comes as often.
        """
        costs = {scan: GREY_BYTES + RESULT_BYTES * count for scan, count in Counter(scans).items()}
        least, total, fitting = min(FEWEST, self.most), 0, []
        for scan, cost in costs.items():
            if not least or (total + cost) * least > self.page_bytes:
                break
            total += cost
            fitting.append(scan)
        return dict.fromkeys(fitting, min(self.most, self.page_bytes // total) if total else 0)


def chosen_slices(held: NDArray[np.bool_], must: Collection[int], *, most: int) -> list[int]:
    """At most so many slices, evenly over those that hold something and a little beyond.

    Args:
        held: ``(S,)`` whether a slice holds something; if none does, all are as good.
        must: Slices that are chosen in any case.
        most: How many.
    """
    at = np.flatnonzero(held) if held.any() else np.arange(len(held))
    beyond = max(2, round(MARGIN * (at[-1] - at[0] + 1)))
    first, last = max(0, at[0] - beyond), min(len(held) - 1, at[-1] + beyond)
    wanted = sorted(must)[:most]
    even = np.linspace(first, last, max(1, most - len(wanted))).round().astype(int)
    return sorted({*wanted, *even.tolist()})


def tile_size(shape: tuple[int, int], spacing_mm: tuple[float, float]) -> tuple[int, int]:
    """Width and height in pixels of a slice ``(H, W)``, in its true proportions."""
    tall, wide = (count * mm for count, mm in zip(shape, spacing_mm, strict=True))
    scale = TILE / max(tall, wide)
    return max(4, round(wide * scale)), max(4, round(tall * scale))


def grey_sheet(
    slices: NDArray[np.generic], levels: Sequence[tuple[float, int]], size: tuple[int, int]
) -> bytes:
    """Slices ``(N, H, W)`` as one JPEG, their intensities along the line of ``levels``."""
    values, greys = zip(*levels, strict=True)

    def tile(plane: NDArray[np.generic]) -> Image.Image:
        grey = np.interp(np.nan_to_num(np.asarray(plane, np.float32)), values, greys).astype(np.float32)
        return _bytes_of(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))

    stream = io.BytesIO()
    _sheet([tile(plane) for plane in slices], size).save(stream, "JPEG", quality=QUALITY, optimize=True)
    return stream.getvalue()


def mask_sheet(masks: NDArray[np.bool_], size: tuple[int, int]) -> bytes:
    """Masks ``(N, H, W)`` as one PNG of one bit."""

    def tile(plane: NDArray[np.bool_]) -> Image.Image:
        soft = Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        return _bytes_of(Image.fromarray((np.asarray(soft) >= 0.5) * np.float32(255)))

    return _png(_sheet([tile(plane) for plane in masks], size).point(lambda grey: grey and 255).convert("1"))


def heat_sheet(chances: NDArray[np.floating], size: tuple[int, int]) -> bytes:
    """Probabilities ``(N, H, W)`` as one PNG of 16 greys."""
    step = 255 // (HEAT_LEVELS - 1)

    def tile(plane: NDArray[np.floating]) -> Image.Image:
        chance = np.nan_to_num(np.asarray(plane, np.float32)).clip(0, 1)
        soft = np.asarray(Image.fromarray(chance).resize(size, Image.Resampling.BILINEAR))
        return Image.fromarray((soft * (HEAT_LEVELS - 1)).round().astype(np.uint8))

    sheet = _sheet([tile(plane) for plane in chances], size)
    sheet.putpalette([grey * step for grey in range(HEAT_LEVELS) for _ in range(3)])
    return _png(sheet, bits=4)


def _sheet(tiles: Sequence[Image.Image], size: tuple[int, int]) -> Image.Image:
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("L", (min(len(tiles), COLUMNS) * size[0], rows * size[1]))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, COLUMNS)
        sheet.paste(tile, (column * size[0], row * size[1]))
    return sheet


def _bytes_of(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(picture).round().clip(0, 255).astype(np.uint8))


def _png(picture: Image.Image, **options: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True, **options)
    return stream.getvalue()
