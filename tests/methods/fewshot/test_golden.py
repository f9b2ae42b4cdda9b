"""The shipped weights on a real scan: an organ shown in one patient is found in another."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import latentseg as ls
from latentseg.backbones import registry
from latentseg.metrics.overlap import dice

REPOSITORY = Path(__file__).parents[3]
SABS = Path(os.environ.get("LATENTSEG_DATA") or REPOSITORY / "../shared/data").resolve() / "sabs"
LIVER = 6

needs_data = pytest.mark.skipif(
    not (SABS / "image_0.nii.gz").exists(), reason=f"no real scans in {SABS} (set LATENTSEG_DATA)"
)
needs_weights = pytest.mark.skipif(
    not registry.is_present("compact"), reason="the compact weights are not in this checkout"
)


@needs_data
@needs_weights
def test_a_liver_is_found_in_another_patient(tmp_path: Path) -> None:
    """Scan 0, a test patient, with the three-slice support of scan 2; the whole volume is searched."""
    pair = (SABS / "image_2.nii.gz", SABS / "label_2.nii.gz")
    support = ls.Support.from_files([pair], name="liver", label=LIVER, modality="CT", orientation="LAS")
    scan = ls.read(SABS / "image_0.nii.gz", modality="CT", orientation="LAS")
    (written,) = ls.load()(scan, [support])["liver"].save(tmp_path, what=["mask"])
    source, result = nib.load(SABS / "image_0.nii.gz"), nib.load(written)
    assert result.affine.tobytes() == source.affine.tobytes()
    assert result.shape == source.shape
    truth = ls.read_labels(SABS / "label_0.nii.gz").array == LIVER
    found = np.asarray(result.dataobj) > 0
    held = truth.any((0, 1))
    assert dice(found, truth) > 0.55
    assert found[..., ~held].sum() < 0.1 * found.sum()
