"""Pixels of DICOM files: decompressed, unpacked, rescaled, and what of them is padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, caution
from latentseg.imaging.dicom.codecs import plugin_for
from latentseg.imaging.dicom.files import Entry, parsing, quiet_pydicom
from latentseg.imaging.dicom.mosaic import mosaic_of
from latentseg.imaging.intensity import AIR_HU, HU_REACH, guess_modality

if TYPE_CHECKING:
    from latentseg.imaging.dicom.frames import Frame

AIR = -1000


class Stored(NamedTuple):
    """The pixels of a file as they are stored.

    Attributes:
        pixels: `(frames, rows, columns)`.
        padding: lowest and highest of the values that stand for no pixel; None where the header names none.
    """

    pixels: NDArray[Any]
    padding: tuple[float, float] | None


def decode(entry: Entry) -> NDArray[Any]:
    """The stored pixels of a file, decompressed: `(frames, rows, columns)`; tiles of a mosaic are frames.

    Raises:
        InputError: damaged, no pixels, or a compression that nothing installed can decode.
    """
    return stored(entry).pixels


def stored(entry: Entry) -> Stored:
    """The pixels of a file and what of them is padding; errors are those of :func:`decode`."""
    dataset, pydicom = entry.read(pixels=True), quiet_pydicom()
    with parsing(entry):
        mosaic = mosaic_of(dataset, str(entry))
        syntax = pydicom.uid.UID(dataset.file_meta.get("TransferSyntaxUID") or _plain_syntax(dataset))
        dataset.file_meta.TransferSyntaxUID = syntax
        try:
            pixels: NDArray[Any] = pydicom.pixels.pixel_array(dataset, decoding_plugin=plugin_for(syntax))
        except RuntimeError as error:
            if "missing dependencies" not in str(error):
                raise
            what = f"its compression ({syntax.name}) needs a decoder that is not installed"
            raise InputError(what, where=str(entry), fix="pip install 'latentseg[dicom]'") from error
        pixels = pixels.reshape(-1, *pixels.shape[-2:])
        return Stored(mosaic.slices(pixels) if mosaic else pixels, _padding_of(dataset, pixels.dtype))


def voxels(frames: Sequence[Frame], *, modality: str | None) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Rescaled values `(I, J, N)`, and where they are padding.

    Values are int16 or int32 where they are whole, and float32 elsewhere.

    Padding (PixelPaddingValue, PixelPaddingRangeLimit) becomes air in a CT, 0 in a scan of positive values
    and a value far below all others elsewhere, so that intensities can be told from it.

    Raises:
        InputError: damaged pixels, or pixels that do not fit the header.
    """
    whole = all(number.is_integer() for frame in frames for number in frame.rescale)
    columns, rows = frames[0].size
    out: NDArray[Any] = np.empty((len(frames), rows, columns), np.int32 if whole else np.float32)
    padded: NDArray[np.bool_] | None = None
    places: dict[Entry, list[int]] = {}
    for n, frame in enumerate(frames):
        places.setdefault(frame.entry, []).append(n)
    for entry, listed in places.items():
        pixels, padding = stored(entry)
        if pixels.shape[1:] != (rows, columns) or max(frames[n].number for n in listed) >= len(pixels):
            what = f"pixels of shape {pixels.shape} do not fit the header"
            raise InputError(what, where=str(entry), fix="Export the series again")
        if pixels.dtype.kind == "f" and whole:
            out, whole = out.astype(np.float32), False
        if padding and padded is None:
            padded = np.zeros(out.shape, np.bool_)
        for n in listed:
            slope, intercept = frames[n].rescale
            values = pixels[frames[n].number]
            out[n] = values if (slope, intercept) == (1, 0) else values * slope + intercept
            if padding and padded is not None:
                padded[n] = (values >= padding[0]) & (values <= padding[1])
    out, padded = _without_padding(out, padded, modality, str(frames[0].entry))
    if whole and out.min() >= -32768 and out.max() <= 32767:
        out = out.astype(np.int16)
    return out.transpose(2, 1, 0), None if padded is None else padded.transpose(2, 1, 0)


def _without_padding(
    values: NDArray[Any], padded: NDArray[np.bool_] | None, modality: str | None, where: str
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Give padding a value that cannot be taken for the patient."""
    if padded is None or not padded.any():
        return values, None
    if padded.all():
        caution(f"{where}: every pixel is called padding (PixelPaddingValue): that is not believed")
        return values, None
    rest = values[~padded]
    low, high = float(rest.min()), float(rest.max())
    if modality == "CT" or (modality is None and guess_modality(rest) == "CT"):
        strange = padded & ((values > AIR_HU) | (values < HU_REACH[0]))
        values[strange] = min(low, AIR)
        return values, padded
    values[padded] = 0 if low >= 0 else low - max(high - low, 1)
    return values, padded


def _padding_of(dataset: Any, dtype: np.dtype[Any]) -> tuple[float, float] | None:
    """Lowest and highest padding value, both as the pixels are stored."""
    ends = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if dtype.kind == "f":
        kind = "Float" if dtype.itemsize == 4 else "DoubleFloat"
        ends = [dataset.get(f"{kind}{name}") for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    given = [number for end in ends for number in _as_stored(end, dtype)]
    return (min(given), max(given)) if given else None


def _as_stored(value: Any, dtype: np.dtype[Any]) -> list[float]:
    """A padding value as a pixel, also where it is written with the other sign; nothing where it is none."""
    if isinstance(value, bytes):
        value = int.from_bytes(value, "little") if value else None
    if value is None or isinstance(value, str) or hasattr(value, "append"):
        return []
    if dtype.kind == "f":
        return [float(value)]
    bits = 8 * dtype.itemsize
    number = int(value) % (1 << bits)
    return [float(number - (1 << bits) if dtype.kind == "i" and number >> (bits - 1) else number)]


def _plain_syntax(dataset: Any) -> str:
    """The transfer syntax of a file that does not name it, from how its elements are written."""
    implicit, little = dataset.original_encoding
    return f"1.2.840.10008.1.2{'' if implicit else '.1' if little else '.2'}"
