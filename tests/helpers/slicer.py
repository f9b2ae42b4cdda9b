"""Segmentations as 3D Slicer saves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latentseg.imaging import write_like
from latentseg.phantom.bodies import Phantom


def save_segments(phantom: Phantom, path: Path, **values: int) -> Path:
    """Labels of a phantom as segments of one layer: names, and the labels that they are in the phantom."""
    labels = np.zeros(phantom.labels.shape, np.uint8)
    keys = []
    for number, (name, value) in enumerate(values.items(), start=1):
        labels[phantom.labels.array == value] = number
        keys += [f"Segment{number - 1}_Name:={name}", f"Segment{number - 1}_LabelValue:={number}"]
    plain = write_like(labels, like=phantom.labels, path=path.with_name("plain.nrrd"))
    header, _, voxels = plain.read_bytes().partition(b"\n\n")
    plain.unlink()
    path.write_bytes(header + b"\n" + "\n".join(keys).encode() + b"\n\n" + voxels)
    return path
