"""Segmentations of 3D Slicer (`.seg.nrrd`): names, label values and layers of segments are in the header.

Slicer stores the smallest extent that holds all segments, and segments that overlap in layers of their own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import UsageError, caution
from latentseg.imaging import files
from latentseg.imaging.nrrd import loaded_from, open_itk

SEGMENT = re.compile(r"Segment(\d+)_(ID|Name|LabelValue|Layer)")


class Segment(NamedTuple):
    """Where a segment is.

    Attributes:
        layer: number of its label map.
        value: its value there.
    """

    layer: int
    value: int


def segments_of(path: Path) -> dict[str, Segment]:
    """The segments of a file by name, in its order; empty where its header names none.

    Raises:
        InputError: a damaged file.
    """
    reader = open_itk(path, pixels=False)
    return _segments(reader, reader.GetNumberOfComponents())


def read_seg_nrrd(path: Path, name: str | None = None) -> files.Loaded | None:
    """One segment as label 1, or where no name is given the label map as stored; None without any segment.

    Args:
        path: the file.
        name: of the segment; of a file with one segment, that is taken whatever its name.

    Raises:
        UsageError: no segment of that name, or none is named and they lie in several layers.
        InputError: a damaged file.
    """
    image = open_itk(path)
    layers = image.GetNumberOfComponentsPerPixel()
    segments = _segments(image, layers)
    if not segments or (name is None and layers == 1):
        return None
    chosen = segments[_choose(name, list(segments), path)]
    labels = loaded_from(_layer(image, chosen.layer, path), where=str(path))
    inside: NDArray[Any] = (labels.array == chosen.value).astype(np.uint8)
    return labels._replace(array=inside)


def _segments(image: Any, layers: int) -> dict[str, Segment]:
    facts: dict[int, dict[str, str]] = {}
    for key in image.GetMetaDataKeys():
        found = SEGMENT.fullmatch(key)
        if found:
            facts.setdefault(int(found[1]), {})[found[2]] = image.GetMetaData(key).strip()
    named: dict[str, Segment] = {}
    for number, about in sorted(facts.items()):
        name = about.get("Name") or about.get("ID") or f"Segment_{number + 1}"
        name = f"{name} ({number + 1})" if name in named else name
        layer = int(about.get("Layer") or (number if layers > 1 else 0))  # before 4.11 each had its own
        named[name] = Segment(layer, int(about.get("LabelValue") or 1))
    return named


def _choose(name: str | None, names: list[str], path: Path) -> str:
    listed = ", ".join(map(repr, names))
    if name is None and len(names) > 1:
        what = f"its segments lie in several layers, as they may overlap ({listed})"
        raise UsageError(what, where=str(path), fix="say which one by its name")
    found = files.find_name(name, names) if name else names[0]
    if found is None and len(names) == 1:
        caution(f"{path}: its only segment, {names[0]!r}, is taken for {name!r}", stacklevel=5)
        return names[0]
    if found is None:
        what = f"no segment is called {name!r}; there are {listed}"
        raise UsageError(what, where=str(path), fix="choose one of those")
    return found


def _layer(image: Any, layer: int, path: Path) -> Any:
    import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so

    layers = image.GetNumberOfComponentsPerPixel()
    if not 0 <= layer < layers:
        raise files.broken(path, "NRRD", ValueError(f"a segment is in layer {layer} of {layers}"))
    return image if layers == 1 else sitk.VectorIndexSelectionCast(image, layer)
