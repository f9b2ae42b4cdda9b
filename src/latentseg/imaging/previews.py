"""Pictures of masks on image slices, as PNG bytes.

Slices are `(H, W)` in the canonical frame (row 0 anterior, column 0 the patient's right), so a picture is
in radiological convention: the patient's right is on the left of the screen. Pixels are stretched to
the true aspect ratio by their spacing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import find_contours

from latentseg.errors import GeometryError

Color = tuple[int, int, int]

PREDICTION: Color = (255, 167, 38)
TRUTH: Color = (38, 198, 218)
SUPPORT: Color = (102, 220, 130)
PALETTE: tuple[Color, ...] = (
    (239, 108, 92),
    (102, 200, 120),
    (92, 156, 246),
    (250, 204, 72),
    (186, 122, 230),
    (72, 202, 208),
)
_SMOOTH = 2  # lines are drawn this many times larger and reduced, for smooth edges
_HEAT = np.array([(30, 20, 80), (120, 28, 109), (206, 68, 71), (247, 148, 29), (252, 245, 160)], float)


@dataclass(frozen=True, eq=False)
class Layer:
    """One mask drawn over a slice.

    Attributes:
        mask: `(H, W)` mask, or a probability that is cut at 0.5.
        color: Red, green, blue, 0-255.
        style: A line round the mask, a tint, or both.
    """

    mask: NDArray[np.generic]
    color: Color = PREDICTION
    style: Literal["contour", "fill", "both"] = "contour"


@dataclass(frozen=True)
class Canvas:
    """How a slice becomes a picture.

    Attributes:
        height: Height of the picture in pixels; the width follows from shape and spacing.
        spacing_mm: Height and width of a pixel of the slice in millimeters.
        window: Values shown as black and white; None takes the 1st and 99.5th percentiles of the slice.
        line_width: Width of contours in pixels of the picture.
        caption: Text in the lower left corner.
        side_marks: Whether to write R at the side of the patient's right.
    """

    height: int = 320
    spacing_mm: tuple[float, float] = (1.0, 1.0)
    window: tuple[float, float] | None = (-1.0, 1.0)
    line_width: float = 1.75
    caption: str = ""
    side_marks: bool = True


def overlay(slice_: ArrayLike, *, layers: Sequence[Layer] = (), canvas: Canvas | None = None) -> bytes:
    """Draw masks over one slice `(H, W)`, first layer lowest.

    Raises:
        GeometryError: The slice is not two-dimensional or a mask has another shape.
    """
    plan = canvas or Canvas()
    image = _plane(slice_)
    picture = _grey(image, plan)
    for layer in layers:
        picture = _paint(picture, layer, shape=image.shape, width=plan.line_width)
    return _png(_annotate(picture, plan))


def heatmap(slice_: ArrayLike, *, probability: ArrayLike, canvas: Canvas | None = None) -> bytes:
    """Tint one slice `(H, W)` by a probability `(H, W)` in [0, 1]: dark violet is low, yellow is high.

    Raises:
        GeometryError: The slice is not two-dimensional or the probability has another shape.
    """
    plan = canvas or Canvas()
    image = _plane(slice_)
    picture = _grey(image, plan)
    chance = np.clip(np.nan_to_num(_same_shape(probability, shape=image.shape)), 0, 1)
    chance = np.asarray(_resize(chance.astype(np.float32), picture.size, Image.Resampling.BILINEAR))
    alpha = np.clip(chance * 1.2, 0, 0.6)[..., None]
    mixed = np.asarray(picture, float) * (1 - alpha) + _heat_colors(chance) * alpha
    return _png(_annotate(Image.fromarray(mixed.astype(np.uint8)), plan))


def montage(pngs: Sequence[bytes], *, columns: int, gap: int = 6, background: Color = (18, 20, 24)) -> bytes:
    """Put pictures into a grid, row by row; each cell is as large as the largest picture.

    Raises:
        GeometryError: There is no picture.
    """
    if not pngs:
        raise GeometryError("no picture to put together", where="montage", fix="pass at least one picture")
    pictures = [Image.open(io.BytesIO(png)).convert("RGB") for png in pngs]
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), background)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        free = (width - picture.width) // 2, (height - picture.height) // 2
        sheet.paste(picture, (column * (width + gap) + free[0], row * (height + gap) + free[1]))
    return _png(sheet)


def thumbnail(png: bytes, *, longest: int | None = None) -> bytes:
    """A picture as JPEG, a third of the size; reduced until its longer side has `longest` pixels."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    if longest:
        picture.thumbnail((longest, longest))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=82, subsampling=0, optimize=True)
    return stream.getvalue()


def fitted_height(shape: tuple[int, ...], spacing_mm: tuple[float, float], *, longest: int) -> int:
    """Height of a picture of a slice `(H, W)` whose longer side has `longest` pixels; four at least."""
    tall, wide = (count * mm for count, mm in zip(shape, spacing_mm, strict=True))
    return int(max(4, round(longest * tall / max(tall, wide))))


def figure(png: bytes, *, caption: str) -> str:
    """A picture with its caption as a piece of HTML, for notebooks."""
    data = base64.b64encode(png).decode("ascii")
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(caption)}">'
    return f'<figure style="margin:0">{image}<figcaption>{escape(caption)}</figcaption></figure>'


def key_slices(mask: ArrayLike, *, count: int = 3) -> list[int]:
    """Slices `(S,)` of a mask `(S, H, W)` worth a look: evenly spread over those that hold it.

    The middles of `count` equal parts are taken; an empty mask gives the middles of the whole stack.
    """
    stack = np.asarray(mask).astype(bool)
    held = np.flatnonzero(stack.any(axis=(1, 2)))
    if held.size == 0:
        held = np.arange(stack.shape[0])
    return list(dict.fromkeys(int(held[int((k + 0.5) / count * held.size)]) for k in range(count)))


def _plane(slice_: ArrayLike) -> NDArray[np.float32]:
    image = np.asarray(slice_, np.float32)
    if image.ndim != 2:
        raise GeometryError(
            f"expected a slice (H, W), got shape {image.shape}", where="preview", fix="pass one slice"
        )
    return np.nan_to_num(image)


def _same_shape(mask: ArrayLike, *, shape: tuple[int, ...]) -> NDArray[np.float32]:
    plane = np.asarray(mask, np.float32)
    if plane.shape != shape:
        raise GeometryError(
            f"mask has shape {plane.shape} and slice {shape}", where="preview", fix="pass both on one grid"
        )
    return plane


def _grey(image: NDArray[np.float32], canvas: Canvas) -> Image.Image:
    low, high = canvas.window or tuple(np.percentile(image, [1, 99.5]))
    grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    tall, wide = (size * step for size, step in zip(image.shape, canvas.spacing_mm, strict=True))
    size = (max(1, round(canvas.height * wide / tall)), canvas.height)
    resized = np.asarray(_resize(grey, size, Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(resized * 255, 0, 255).astype(np.uint8)).convert("RGB")


def _resize(plane: NDArray[np.float32], size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    return Image.fromarray(plane).resize(size, how)


def _paint(picture: Image.Image, layer: Layer, *, shape: tuple[int, ...], width: float) -> Image.Image:
    mask = _same_shape(layer.mask, shape=shape)
    stencil = Image.new("L", (picture.width * _SMOOTH, picture.height * _SMOOTH), 0)
    draw = ImageDraw.Draw(stencil)
    alphas = {"contour": (0, 255), "fill": (110, 0), "both": (62, 255)}[layer.style]
    if alphas[0]:
        soft = np.asarray(_resize(mask, stencil.size, Image.Resampling.BILINEAR))
        stencil.paste(alphas[0], mask=Image.fromarray(((soft >= 0.5) * 255).astype(np.uint8)))
    if alphas[1]:
        for line in _contours(mask, size=stencil.size):
            draw.line(line, fill=alphas[1], width=max(1, round(width * _SMOOTH)), joint="curve")
    stencil = stencil.resize(picture.size, Image.Resampling.LANCZOS)
    return Image.composite(Image.new("RGB", picture.size, layer.color), picture, stencil)


def _contours(mask: NDArray[np.float32], *, size: tuple[int, int]) -> list[list[tuple[float, float]]]:
    """Closed lines in pixels of `size` (width, height); the frame of the slice counts as outside."""
    scale = size[1] / mask.shape[0], size[0] / mask.shape[1]
    lines = find_contours(np.pad(mask, 1), 0.5)
    # Padding shifts indices by one; the centre of pixel i lies at i + 0.5.
    return [[((x - 0.5) * scale[1], (y - 0.5) * scale[0]) for y, x in line] for line in lines]


def _heat_colors(chance: NDArray[np.float32]) -> NDArray[np.float64]:
    at = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(chance, at, _HEAT[:, channel]) for channel in range(3)], axis=-1)


def _annotate(picture: Image.Image, canvas: Canvas) -> Image.Image:
    draw = ImageDraw.Draw(picture)
    size = max(10, round(picture.height / 24))
    font = ImageFont.load_default(size)
    if canvas.side_marks:
        draw.text((size // 2, picture.height // 2), "R", (205, 210, 216), font=font, anchor="lm")
    if canvas.caption:
        spot = (size // 2, picture.height - size // 2)
        draw.text(
            spot,
            canvas.caption,
            (235, 238, 242),
            font=font,
            anchor="ls",
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )
    return picture


def _png(picture: Image.Image) -> bytes:
    """Encode with a palette of 256 colors: half the size, and greys with a few hues look the same."""
    stream = io.BytesIO()
    picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        stream, "PNG", optimize=True
    )
    return stream.getvalue()
