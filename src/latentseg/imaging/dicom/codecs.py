"""JPEG and JPEG-LS frames of DICOM files, decoded by imagecodecs as a plug-in of pydicom.

Other decoders for these end the process, or never end, on some damaged frames. Here a frame whose header does
not announce the image's own size is refused before it is decoded.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import numpy as np

from latentseg.imaging.dicom.files import quiet_pydicom

NAME = "imagecodecs"
JPEG = tuple(f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 57, 70))
JPEG_LS = tuple(f"1.2.840.10008.1.2.4.{end}" for end in (80, 81))
JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{end}" for end in (90, 91, 201, 202, 203))
RLE = "1.2.840.10008.1.2.5"
DECODER_DEPENDENCIES = dict.fromkeys((*JPEG, *JPEG_LS), ("imagecodecs>=2024.9",))
START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def plugin_for(syntax: str) -> str:
    """The one decoder that a transfer syntax is trusted to; ``""`` where nothing is compressed."""
    if syntax in DECODER_DEPENDENCIES:
        _register()
        return NAME
    if syntax in JPEG_2000:
        return "pylibjpeg"
    return "pydicom" if syntax == RLE else ""


def is_available(uid: str) -> bool:
    """Whether imagecodecs is installed and the transfer syntax is one of ours."""
    return uid in DECODER_DEPENDENCIES and find_spec("imagecodecs") is not None


def decode_frame(content: bytes, runner: Any) -> bytearray:
    """One frame as pydicom expects it: little-endian pixels of ``bits_allocated``.

    Args:
        content: the compressed frame.
        runner: pydicom's description of the image.

    Raises:
        ValueError: a frame of another size, or a damaged one.
    """
    import imagecodecs

    size = frame_size(content)
    if size != (runner.rows, runner.columns):
        msg = f"a compressed frame of {size} pixels in an image of {(runner.rows, runner.columns)}"
        raise ValueError(msg)
    decode = imagecodecs.jpegls_decode if runner.transfer_syntax in JPEG_LS else imagecodecs.jpeg8_decode
    pixels = np.asarray(decode(content))
    unused = runner.bits_allocated - runner.bits_stored
    if runner.pixel_representation == 1 and unused:
        signed = pixels.astype(f"<i{runner.bits_allocated // 8}")
        pixels = (signed << unused) >> unused
    return bytearray(pixels.astype(f"<u{runner.bits_allocated // 8}").tobytes())


def frame_size(content: bytes) -> tuple[int, int]:
    """Rows and columns that a JPEG or JPEG-LS stream announces.

    Raises:
        ValueError: none.
    """
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        if content[at + 1] in START_OF_FRAME:
            return int.from_bytes(content[at + 5 : at + 7]), int.from_bytes(content[at + 7 : at + 9])
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    msg = "a compressed frame without a header"
    raise ValueError(msg)


def _register() -> None:
    find = quiet_pydicom().pixels.get_decoder
    for uid in DECODER_DEPENDENCIES:
        with suppress(ValueError):  # it is registered already
            find(uid).add_plugin(NAME, (__name__, "decode_frame"))
