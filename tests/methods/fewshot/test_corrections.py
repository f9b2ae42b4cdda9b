"""Corrected results as further examples, in memory and in folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import latentseg as ls
from latentseg.errors import GeometryError, InputError, UsageError
from latentseg.imaging import Volume, write_like
from latentseg.methods.fewshot.corrections import add_example
from latentseg.methods.fewshot.support import Support
from latentseg.methods.fewshot.support_folder import SupportFolder
from latentseg.phantom.bodies import Phantom


@pytest.fixture
def scan(shown: Phantom, tmp_path: Path) -> Volume:
    path = write_like(shown.image.array, like=shown.image, path=tmp_path / "scans/a.nii.gz", kind="image")
    return ls.read(path, modality="CT")


def mask_of(phantom: Phantom, label: int) -> Volume:
    return phantom.labels.with_array((phantom.labels.array == label).astype(np.uint8))


def test_a_corrected_scan_is_one_more_example(shown: Phantom, searched: Phantom) -> None:
    liver = Support.from_volumes(shown.image, shown.labels, name="liver", label=1)
    both = liver.with_corrected(searched.image, searched.labels, label=1)
    assert both.name == "liver"
    assert len(both.scans) == 2
    assert len(both) == len(liver) + 3
    with pytest.raises(InputError, match=r"mask is empty"):
        liver.with_corrected(searched.image, searched.labels.with_array(searched.labels.array * 0))


def test_a_result_is_an_example_of_whole_scans_alone(shown: Phantom, searched: Phantom) -> None:
    liver = Support.from_volumes(shown.image, shown.labels, name="liver", label=1)
    both = liver.with_found(searched.image, searched.labels.array == 1)
    assert [scan.found for scan in both.scans] == [False, True]
    assert (both.images is liver.images, both.sources) == (True, liver.sources)
    assert both.scans[1].known.all()
    with pytest.raises(InputError, match=r"mask is empty"):
        liver.with_found(searched.image, searched.labels.array == 99)


def test_a_folder_grows_by_scans_and_by_targets(scan: Volume, shown: Phantom, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert add_example(folder, scan, mask_of(shown, 1), target="liver") == folder / "a_mask.nii.gz"
    add_example(folder, scan.source, mask_of(shown, 4), target="spleen")
    examples = SupportFolder(folder)
    assert examples.names == {"liver": 1, "spleen": 2}
    assert [(image.name, mask.name) for image, mask in examples.pairs] == [("a.nii.gz", "a_mask.nii.gz")]
    labels = ls.read_labels(folder / "a_mask.nii.gz").array
    for label, organ in ((1, 1), (2, 4)):
        np.testing.assert_array_equal(labels == label, shown.labels.array == organ)
    smaller = mask_of(shown, 1)
    smaller.array[:, :, ::2] = 0
    add_example(folder, scan, smaller, target="liver")
    labels = ls.read_labels(folder / "a_mask.nii.gz").array
    np.testing.assert_array_equal(labels == 1, smaller.array > 0)
    np.testing.assert_array_equal(labels == 2, shown.labels.array == 4)
    assert len(Support.from_folder(folder, target="spleen").scans) == 1


def test_two_folders_and_masks_without_names(scan: Volume, shown: Phantom, tmp_path: Path) -> None:
    for kind, volume in (("images", scan), ("labels", mask_of(shown, 1))):
        write_like(volume.array, like=scan, path=tmp_path / f"ex/{kind}/b.nii.gz", kind="image")
    written = add_example(tmp_path / "ex", scan, shown.labels, target="whatever", label=1)
    assert written == tmp_path / "ex/labels/a.nii.gz"
    assert len(SupportFolder(tmp_path / "ex").pairs) == 2
    assert not (tmp_path / "ex/labels.json").exists()


def test_what_does_not_fit_is_refused(scan: Volume, shown: Phantom, tmp_path: Path) -> None:
    folder, liver = tmp_path / "ex", mask_of(shown, 1)
    add_example(folder, scan, liver, target="liver")
    before = (folder / "a_mask.nii.gz").read_bytes()
    other = Volume(scan.array + 1, scan.affine_ras_mm, "CT", source=Path("elsewhere/a.nii.gz"))
    with pytest.raises(InputError, match=r"another scan of this name.*a\.nii\.gz"):
        add_example(folder, other, liver, target="liver")
    with pytest.raises(GeometryError):
        add_example(folder, scan, np.ones((2, 2, 2), np.uint8), target="liver")
    with pytest.raises(InputError, match=r"mask is empty"):
        add_example(folder, scan, liver.with_array(liver.array * 0), target="liver")
    (folder / "labels.json").write_text(json.dumps({"region": [1, 2]}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"'region' has no label of its own"):
        add_example(folder, scan, liver, target="region")
    assert (folder / "a_mask.nii.gz").read_bytes() == before
