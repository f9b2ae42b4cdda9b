"""What stands for examples: supports, folders, files, images in memory; all else gets a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

import latentseg as ls
from latentseg.errors import GeometryError, UsageError
from latentseg.imaging import write_like
from latentseg.methods.fewshot.segmenter import FewShotSegmenter
from latentseg.methods.fewshot.support import Support
from latentseg.methods.fewshot.support_inputs import as_supports
from latentseg.phantom.bodies import Phantom

LIVER, SPLEEN = 1, 4


@pytest.fixture
def files(shown: Phantom, tmp_path: Path) -> tuple[Path, Path]:
    image = write_like(shown.image.array, like=shown.image, path=tmp_path / "ex/a.nii.gz", kind="image")
    return image, write_like(
        shown.labels.array == LIVER, like=shown.image, path=tmp_path / "ex/a_mask.nii.gz"
    )


def test_pairs_of_whatever_libraries_give(files: tuple[Path, Path]) -> None:
    image, mask = files
    expected = Support.from_files([(image, mask)], name="liver")
    array = np.asanyarray(nib.load(mask).dataobj)
    for pair in (
        (image, mask),
        [str(image), str(mask)],
        (nib.load(image), nib.load(mask)),
        (sitk.ReadImage(str(image)), sitk.ReadImage(str(mask))),
        (ls.read(image), array),
        (nib.load(image), array > 0),
        (ls.read(np.asanyarray(nib.load(image).dataobj), affine_ras_mm=nib.load(image).affine), mask),
    ):
        support = Support.from_files(pair, name="liver")
        np.testing.assert_array_equal(support.masks, expected.masks)
        np.testing.assert_allclose(support.images, expected.images, atol=1e-6)
        (same,) = as_supports({"liver": pair})
        np.testing.assert_array_equal(same.masks, expected.masks)


def test_one_or_many(files: tuple[Path, Path], segmenter: FewShotSegmenter, tmp_path: Path) -> None:
    support = Support.from_files(files, name="liver")
    context = segmenter.encode(support)
    saved = context.save(tmp_path / "liver.safetensors")
    assert as_supports(support) == [support]
    assert as_supports((support, context)) == [support, context]
    assert as_supports({"liver": context}) == [context]
    assert as_supports(one for one in [support]) == [support]
    assert [one.name for one in as_supports([saved, {"x": files}, str(files[0].parent)])] == [
        "liver",
        "x",
        "ex",
    ]
    (files[0].parent / "labels.json").write_text(json.dumps({"organ": 1}), encoding="utf-8")
    assert [one.name for one in as_supports(files[0].parent)] == ["organ"]


def test_a_segmenter_takes_scans_and_supports_as_they_come(
    files: tuple[Path, Path], segmenter: FewShotSegmenter, searched: Phantom, tmp_path: Path
) -> None:
    path = write_like(searched.image.array, like=searched.image, path=tmp_path / "q.nii.gz", kind="image")
    expected = segmenter(ls.read(path), [Support.from_files([files], name="liver")])["liver"].mask
    for scan in (path, nib.load(path), sitk.ReadImage(str(path))):
        np.testing.assert_array_equal(segmenter(scan, {"liver": files})["liver"].mask, expected)
    with pytest.raises(UsageError, match="an int is no image"):
        segmenter(3, {"liver": files})


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (3, "an int is no support. Give a Support"),
        (None, "None is no support"),
        ([None], "None is no support"),
        (np.zeros((3, 3, 3)), "a ndarray is no support"),
        ("liver", "a support is no word, and there is no such folder: liver"),
        ({"liver": 3}, "an int is no pair of image and mask"),
        ({"liver": ("a.nii.gz",)}, "an example of 'liver' has one part"),
        ({"liver": ("a", "b", "c")}, "an example of 'liver' has 3 parts"),
        ({"liver": []}, "no example was given for 'liver'"),
    ],
)
def test_what_is_no_support_gets_a_sentence(thing: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        as_supports(thing)


def test_files_and_names_that_do_not_fit(files: tuple[Path, Path], shown: Phantom) -> None:
    with pytest.raises(UsageError, match=r"a file alone is no example.*a\.nii\.gz"):
        as_supports(files[0])
    with pytest.raises(UsageError, match="the support of 'liver' is listed as 'spleen'"):
        as_supports({"spleen": Support.from_files(files, name="liver")})
    with pytest.raises(GeometryError, match="does not fit the grid"):
        Support.from_volumes(shown.image, shown.labels.array[1:], name="x", label=LIVER)


def test_prompts_are_texts(tiny_tumor_model: Path, shown: Phantom) -> None:
    segmenter = ls.load("tumor", backbone=tiny_tumor_model)
    assert segmenter.listed("liver tumor") == ["liver tumor"]
    assert segmenter.listed(("liver tumor", "kidney tumor")) == ["liver tumor", "kidney tumor"]
    support = Support.from_volumes(shown.image, shown.labels, name="x", label=LIVER)
    for thing, kind in (
        (3, "an int"),
        (None, "None"),
        ([3], "an int"),
        (support, "a Support"),
        (b"x", "an int"),
    ):
        with pytest.raises(UsageError, match=f"{kind} is no prompt"):
            segmenter(shown.image, thing)
