"""What is measured of a mask, beside what all pairs of pixels say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from latentseg.methods.bids import dseg_name, dseg_table
from latentseg.methods.measures import bounding_box, intensity_statistics, largest_axial_diameter_mm


def by_all_pairs(plane: NDArray[np.bool_], spacing_mm: tuple[float, float]) -> float:
    """The middles of all edges of all pixels."""
    edges = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)])
    points = (np.argwhere(plane)[:, None] + edges).reshape(-1, 2) * spacing_mm
    return float(pdist(points).max()) if len(points) else 0.0


@settings(max_examples=60, deadline=None)
@given(
    mask=arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))),
    spacing_mm=st.tuples(st.floats(0.2, 8), st.floats(0.2, 8)),
)
def test_the_diameter_is_that_of_all_pairs(mask: NDArray[np.bool_], spacing_mm: tuple[float, float]) -> None:
    expected = max(by_all_pairs(plane, spacing_mm) for plane in mask)
    assert largest_axial_diameter_mm(mask, spacing_mm) == pytest.approx(expected)


def test_the_diameter_of_a_disc() -> None:
    y, x = np.mgrid[:101, :101]
    disc = (y - 50) ** 2 + (x - 50) ** 2 <= 40**2
    mask = np.stack([np.zeros_like(disc), disc])
    assert largest_axial_diameter_mm(mask, (0.5, 0.5)) == pytest.approx(40.5, abs=0.3)


@given(mask=arrays(bool, (4, 5, 3)))
def test_the_box_holds_the_mask_and_no_more(mask: NDArray[np.bool_]) -> None:
    box = bounding_box(mask)
    assert (box is None) == (not mask.any())
    if box:
        at = tuple(slice(first, last + 1) for first, last in box)
        assert mask[at].sum() == mask.sum()
        assert all(mask[at].any(tuple({0, 1, 2} - {axis}))[[0, -1]].all() for axis in range(3))


def test_intensities() -> None:
    found = intensity_statistics(np.arange(101, dtype=np.int16) - 50)
    assert found == {
        "intensity_mean": 0.0,
        "intensity_sd": pytest.approx(29.155, abs=1e-3),
        **{f"intensity_p{share}": share - 50.0 for share in (5, 25, 50, 75, 95)},
    }
    assert set(intensity_statistics(np.zeros(0)).values()) == {None}


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("sub-01_ses-2_acq-fs_T2w", "sub-01_ses-2_acq-fs_desc-latentseg_dseg"),
        ("sub-01_desc-preproc_T1w", "sub-01_desc-latentseg_dseg"),
        ("ct1", "sub-ct1_desc-latentseg_dseg"),
        ("ses-1_x", "sub-ses1x_desc-latentseg_dseg"),
        ("_ ü", "sub-scan_desc-latentseg_dseg"),
    ],
)
def test_names_of_bids(case: str, name: str) -> None:
    assert dseg_name(case) == name


def test_a_table_of_labels_is_a_table() -> None:
    lines = dseg_table(["left\tkidney", *map(str, range(10))]).splitlines()
    assert len(lines) == 13
    assert all(line.count("\t") == 2 for line in lines)
    assert lines[2].startswith("1\tleft kidney\t#")
