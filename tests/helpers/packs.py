"""Small packs and small networks for the tests of training; loaded with ``runpy`` where they are needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from latentseg.imaging import write_like
from latentseg.phantom.bodies import abdomen
from latentseg.training.pack import Pack, PackOptions, Source, pack, save_array

KEEP = {1: "liver", 2: "kidney_right", 4: "spleen", 11: "vertebrae"}
SIZE = 64


def write_phantoms(folder: Path, *, seeds: tuple[int, ...] = (1, 2), modality: str = "CT") -> None:
    """``image_{seed}.nii.gz`` and ``label_{seed}.nii.gz`` of a few patients of 8 slices of 64 x 64 pixels."""
    for seed in seeds:
        patient = abdomen(seed=seed, modality=modality, shape=(SIZE, SIZE, 8))
        image = folder / f"image_{seed}.nii.gz"
        write_like(patient.image.array, like=patient.image, path=image, kind="image")
        write_like(patient.labels.array, like=patient.image, path=folder / f"label_{seed}.nii.gz")


def source(**changes: object) -> Source:
    """How the files of :func:`write_phantoms` are packed."""
    fields = {"name": "phantom", "images": "image_*.nii.gz", "labels": ("image_", "label_")}
    return Source(**{**fields, "modality": "CT", "keep_labels": KEEP, **changes})


def small_pack(folder: Path, *, supervoxels: bool = True) -> Pack:
    """A pack of two phantoms whose pseudo-labels are the organs cut by a coarse grid (no numba needed)."""
    scans = folder / "scans"
    scans.mkdir(parents=True)
    write_phantoms(scans)
    packed = pack(PackOptions(size=SIZE, sources=(source(),)), data=scans, folder=folder / "pack")
    if supervoxels:
        save_array(folder / "pack" / "supervoxels.npy", grid_regions(packed))
    return Pack(folder / "pack")


def grid_regions(packed: Pack) -> NDArray[np.uint16]:
    """Blocks of 16 pixels, each split by what label it holds; 0 outside the body."""
    rows, columns = np.indices((SIZE, SIZE)) // 16
    ids = 1 + (rows * 4 + columns) * 16 + packed.labels.astype(int)
    return np.where(packed.images > 10, ids, 0).astype(np.uint16)


def shrink_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the compact models a few thousand parameters."""
    from latentseg.backbones import compact

    monkeypatch.setitem(compact.AUTOENCODER_CONFIG, "block_out_channels", [8, 8, 16, 16])
    monkeypatch.setitem(compact.UNET_CONFIG, "block_out_channels", [16, 16, 32])
    monkeypatch.setitem(compact.UNET_CONFIG, "norm_num_groups", 8)
    monkeypatch.setitem(compact.UNET_CONFIG, "cross_attention_dim", 16)
