"""The maps behind a mask as they are drawn: for people, and not where there is nothing to see."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentseg.imaging import Volume, to_canonical
from latentseg.imaging.network_input import NetworkInput
from latentseg.methods.tumor.evidence import Evidence, TumorSegmentation


@pytest.fixture
def scan() -> Volume:
    """A lung, with a nodule in slice 3."""
    array = np.full((48, 48, 6), -850, np.int16)
    array[:6] = array[-6:] = 40
    array[20:26, 20:26, 3] = 40
    return Volume(array, np.diag([-1.0, -1, 3, 1]), "CT", Path("ct7.nii.gz"))


def found_in(scan: Volume, target: str, *, absent: bool) -> TumorSegmentation:
    canonical = to_canonical(scan)
    mask = np.zeros(scan.shape, bool)
    if not absent:
        mask[20:26, 20:26, 3] = True
    slices = np.zeros(canonical.slices.shape, np.float32)
    scores = np.array([0.1, 0.2, 0.1, 0.1 if absent else 0.9, 0.1, 0.1], np.float32)
    seen = NetworkInput(scan, canonical, slices - 1, canonical.spacing_mm, lambda stack: stack)
    evidence = Evidence(
        seen, *(slices, slices - 1, slices, slices), scores=scores, refined=scores >= 0.5, certainty=slices
    )
    return TumorSegmentation(target, scan, mask, mask.astype(np.float32), float(scores.max()), evidence)


def test_an_absent_target_is_a_sentence_and_no_picture(scan: Volume, tmp_path: Path) -> None:
    (written,) = found_in(scan, "lung tumor", absent=True).save(tmp_path, what=["evidence"])
    assert written.name == "ct7_evidence-lung_tumor.txt"
    assert written.read_text(encoding="utf-8") == (
        "No lung tumor was found: of 6 slices 0 looked suspicious, most of all slice 1 from below with an "
        "anomaly score of 0.20.\n"
    )
    (written,) = found_in(scan, "lung tumor", absent=False).save(tmp_path, what=["evidence"])
    assert written.suffix == ".png"


def test_lungs_are_drawn_in_the_lung_window(scan: Volume) -> None:
    """In the soft-tissue window air is black, and so is a lung; in its own it is grey."""
    found = found_in(scan, "lung tumor", absent=False)
    picture = np.asarray(Image.open(io.BytesIO(found.evidence_page(slices=1))).convert("L"), float)
    lung = picture[picture.shape[0] // 4, picture.shape[1] // 8]
    assert 60 < lung < 110  # (-850 + 1350) / 1500 of 255
    preview = np.asarray(Image.open(io.BytesIO(found.preview(slices=1))).convert("L"), float)
    assert 60 < preview[preview.shape[0] // 4, preview.shape[1] // 2] < 110
