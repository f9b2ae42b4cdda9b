"""Splits by patient: which files are held out, which fall into a gap, and what the shipped split keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from latentseg.errors import UsageError
from latentseg.training.config import read_config
from latentseg.training.pack import PackOptions
from latentseg.training.splits import HeldOut, Split

CONFIGS = Path(__file__).parents[2] / "configs"


def test_patients_are_read_from_names() -> None:
    row = HeldOut(files="ct/*.jpg", patient=r"^P_(\d+)-", patients=("0004",))
    split = Split(rows=(row,))
    assert split.part("ct/P_0004-17.jpg") == "held out"
    assert split.part("ct/P_0005-17.jpg") == "training"
    assert split.part("mr/whatever.nii.gz") == "training"
    with pytest.raises(ValueError, match=r"no patient can be read from 'x\.jpg'"):
        split.part("ct/x.jpg")


@given(number=st.integers(0, 400), low=st.integers(50, 200), size=st.integers(0, 80), gap=st.integers(0, 30))
def test_numbers_near_a_block_are_used_by_neither(number: int, low: int, size: int, gap: int) -> None:
    row = HeldOut(files="*.jpg", blocks=((low, low + size),), gap=gap)
    inside = low <= number <= low + size
    near = low - gap <= number <= low + size + gap
    assert row.part(f"{number:04d}.jpg") == ("held out" if inside else "gap" if near else "training")


@pytest.mark.parametrize(("pattern", "what"), [("(", "no regular expression"), ("abc", "no group")])
def test_patterns_that_capture_nothing(pattern: str, what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        HeldOut(files="*", patient=pattern)


def test_a_bad_pattern_in_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "split.yaml"
    file.write_text('rows: [{files: "*", patient: "("}]', encoding="utf-8")
    with pytest.raises(UsageError, match=r"rows\.0: .*no regular expression"):
        read_config(file, Split)


def test_the_shipped_split_keeps_the_test_patients() -> None:
    split = read_config(CONFIGS / "split.yaml", Split)
    assert {split.part(f"sabs/image_{i}.nii.gz") for i in range(7)} == {"held out"}
    assert {split.part(f"sabs/image_{i}.nii.gz") for i in range(7, 19)} == {"training"}
    # both pictures are in the evaluation of liver tumors as well
    assert split.part("slices_2d/msd_liver/10019_095.jpg") == "held out"
    assert split.part("slices_2d/msd_liver/10022_095.jpg") == "held out"
    # one patient is in two classes
    twins = ("normal/0083.jpg", "benign/0033.jpg")
    assert {split.part(f"slices_2d/iq_othnccd/{name}") for name in twins} == {"training"}
    assert split.part("slices_2d/iq_othnccd/normal/0245.jpg") == "gap"
    nodule = "tcia/LIDC-IDRI__LIDC-IDRI-0003__CT__003264.nii.gz"
    assert split.part(nodule) == "held out"


def test_the_pack_of_real_scans_holds_nothing_non_commercial() -> None:
    options = read_config(CONFIGS / "pack-real.yaml", PackOptions)
    assert options.split == "split.yaml"
    globs = " ".join(getattr(source, "images", "").lower() for source in options.sources)
    assert not any(name in globs for name in ("chaos", "acdc", "kidney", "kits", "lung1"))
    assert "tumour_2d/liver" not in globs
