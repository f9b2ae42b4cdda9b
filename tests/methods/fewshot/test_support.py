"""Supports from files and folders: layouts, labels, positions, masks that must not be lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from helpers.slicer import save_segments
from latentseg.errors import GeometryError, InputError, UsageError
from latentseg.imaging import Volume, read, write_like
from latentseg.methods.fewshot.support import Support, fit_masks
from latentseg.methods.fewshot.support_folder import SupportFolder
from latentseg.methods.fewshot.support_masks import is_flat, marked
from latentseg.phantom.bodies import Phantom

LIVER, SPLEEN = 1, 4


def save(volume: Volume, path: Path, *, kind: str = "mask") -> Path:
    return write_like(volume.array, like=volume, path=path, kind=kind)  # type: ignore[arg-type]


def save_pair(phantom: Phantom, image: Path, mask: Path, *, label: int | None = None) -> None:
    save(phantom.image, image, kind="image")
    labels = phantom.labels
    save(labels if label is None else labels.with_array((labels.array == label).astype(np.uint8)), mask)


def test_from_files_takes_the_centers_of_thirds(shown: Phantom, tmp_path: Path) -> None:
    save_pair(shown, tmp_path / "a.nii.gz", tmp_path / "m.nii.gz")
    support = Support.from_files([(tmp_path / "a.nii.gz", tmp_path / "m.nii.gz")], name="liver", label=LIVER)
    assert support.images.shape == support.masks.shape == (3, 256, 256)
    assert support.images.dtype == np.float32
    assert support.masks.any((1, 2)).all()
    assert np.abs(support.images).max() <= 1
    assert support.sources == ("a",) * 3
    assert not support.flat
    twice = Support.from_files(
        [(tmp_path / "a.nii.gz", tmp_path / "m.nii.gz")] * 2, name="liver", label=LIVER
    )
    assert len(twice) == 6


def test_positions_do_not_repeat(shown: Phantom) -> None:
    inside = np.zeros(shown.image.shape, bool)
    inside[20:40, 20:40, 4] = True
    labels = shown.labels.with_array(inside.astype(np.uint8))
    assert len(Support.from_volumes(shown.image, labels, name="one slice")) == 1


def test_axis_order_does_not_change_a_support(shown: Phantom) -> None:
    """A flipped and permuted copy of a scan shows the same slices."""
    straight = Support.from_volumes(shown.image, shown.labels, name="x", label=LIVER)
    turned = [turn(volume) for volume in (shown.image, shown.labels)]
    again = Support.from_volumes(*turned, name="x", label=LIVER)
    np.testing.assert_array_equal(again.images, straight.images)
    np.testing.assert_array_equal(again.masks, straight.masks)


def turn(volume: Volume) -> Volume:
    """The same voxels stored in the order K, I, J with the first axis reversed."""
    array = np.ascontiguousarray(volume.array.transpose(2, 0, 1)[::-1])
    affine = volume.affine_ras_mm[:, [2, 0, 1, 3]].copy()
    affine[:, 3] += affine[:, 0] * (volume.shape[2] - 1)
    affine[:, 0] *= -1
    return replace(volume, array=array, affine_ras_mm=affine)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.nii.gz", "a_mask.nii.gz"),
        ("a.nii.gz", "a_label.nii.gz"),
        ("a.nii.gz", "a_seg.mha"),
        ("a_0000.nii.gz", "a_seg.nii.gz"),
        ("images/a.nii.gz", "labels/a.nii.gz"),
        ("images/a.nrrd", "masks/a.nii.gz"),
        ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"),
    ],
)
def test_layouts(image: str, mask: str, shown: Phantom, tmp_path: Path) -> None:
    save_pair(shown, tmp_path / image, tmp_path / mask, label=LIVER)
    save(shown.image, tmp_path / Path(image).with_name("lonely.nii.gz"), kind="image")
    assert len(SupportFolder(tmp_path).pairs) == 1
    support = Support.from_folder(tmp_path, target="anything")
    direct = Support.from_volumes(shown.image, shown.labels, name="anything", label=LIVER)
    np.testing.assert_array_equal(support.masks, direct.masks)
    assert support.name == "anything"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.json", {"liver": LIVER, "spleen": SPLEEN}),
        ("dataset.json", {"labels": {"background": 0, "liver": LIVER, "spleen": SPLEEN}}),
        ("dataset.json", {"labels": {"0": "background", str(LIVER): "liver", str(SPLEEN): "spleen"}}),
    ],
)
def test_named_labels(name: str, content: dict[str, object], shown: Phantom, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    save_pair(shown, tmp_path / "images" / "a.nii.gz", tmp_path / "labels" / "a.nii.gz")
    without = shown.labels.array.copy()
    without[without == SPLEEN] = 0
    save(shown.image, tmp_path / "images" / "b.nii.gz", kind="image")
    save(shown.labels.with_array(without), tmp_path / "labels" / "b.nii.gz")
    assert SupportFolder(tmp_path).names == {"liver": LIVER, "spleen": SPLEEN}
    assert set(Support.from_folder(tmp_path, target="spleen").sources) == {"a"}
    assert set(Support.from_folder(tmp_path, target="liver").sources) == {"a", "b"}
    with pytest.raises(UsageError, match=r"unknown target 'livr'.*Did you mean 'liver'"):
        Support.from_folder(tmp_path, target="livr")


def test_labels_without_names_need_a_label(shown: Phantom, tmp_path: Path) -> None:
    save_pair(shown, tmp_path / "a.nii.gz", tmp_path / "a_mask.nii.gz")
    with pytest.raises(UsageError, match=r"a_mask.*with label="):
        Support.from_folder(tmp_path, target="liver")
    assert Support.from_folder(tmp_path, target="liver", label=LIVER).masks.any()
    with pytest.raises(InputError, match=r"no example holds 'liver' .label 99."):
        Support.from_folder(tmp_path, target="liver", label=99)


def test_pictures_in_pairs(tmp_path: Path) -> None:
    for number in range(2):
        picture = np.random.default_rng(number).integers(0, 255, (40, 50), np.uint8)
        mask = np.zeros_like(picture)
        mask[10:30, 10:40] = 255
        Image.fromarray(picture).save(tmp_path / f"p{number}.png")
        Image.fromarray(mask).save(tmp_path / f"p{number}_mask.png")
    support = Support.from_folder(tmp_path, target="square")
    assert support.sources == ("p0", "p1")
    assert support.flat
    image = read(tmp_path / "p0.png")
    assert is_flat(image)
    assert not is_flat(replace(image, source=None))


def test_what_is_a_2d_image(tmp_path: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    ramp = np.arange(48, dtype=np.float32).reshape(8, 6)
    for name, array in (("two", ramp), ("three", ramp[:, :, None])):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
        sitk.WriteImage(
            sitk.GetImageFromArray(array if array.ndim == 2 else array.T), str(tmp_path / f"{name}.mha")
        )
    for suffix in (".nii.gz", ".mha"):
        assert is_flat(read(tmp_path / f"two{suffix}"))
        assert not is_flat(read(tmp_path / f"three{suffix}"))


@pytest.mark.parametrize("side", [1, 2, 3])
def test_small_masks_are_not_lost(side: int) -> None:
    """However a target of some pixels lies in 2000, one pixel of 256 shows it, at the right place."""
    inside = np.zeros((8, 2000, 2000), bool)
    for k in range(8):
        inside[k, 997 + k : 997 + k + side, 403 + 2 * k : 403 + 2 * k + side] = True
    masks = fit_masks(inside, pixel_mm=(1.0, 1.0))
    for k, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        assert 1 <= len(rows) <= 2
        assert abs(rows.mean() - (997 + k + side / 2) * 0.128) < 1.5
        assert abs(columns.mean() - (403 + 2 * k + side / 2) * 0.128) < 1.5


def narrow(image: Volume) -> Volume:
    return replace(image, affine_ras_mm=image.affine_ras_mm @ np.diag([1e-4, 100.0, 1.0, 1.0]))


def test_slices_too_narrow_are_refused(shown: Phantom) -> None:
    image, labels = narrow(shown.image), narrow(shown.labels)
    with pytest.raises(GeometryError, match=r"too narrow.*Check the spacing"):
        Support.from_volumes(image, labels, name="x", label=LIVER)


def empty(folder: Path, phantom: Phantom) -> None:
    save(phantom.labels.with_array(phantom.labels.array * 0), folder / "a_mask.nii.gz")


def shifted(folder: Path, phantom: Phantom) -> None:
    affine = phantom.labels.affine_ras_mm.copy()
    affine[0, 3] += 5
    save(replace(phantom.labels, affine_ras_mm=affine, header=None), folder / "a_mask.nii.gz")


def one_slice(folder: Path, phantom: Phantom) -> None:
    image = nib.Nifti1Image(phantom.labels.array[:, :, 4], phantom.labels.affine_ras_mm)
    nib.save(image, folder / "a_mask.nii.gz")


def folder_of_that_name(folder: Path, phantom: Phantom) -> None:
    (folder / "images").mkdir()
    (folder / "labels").mkdir()


def damaged_names(folder: Path, phantom: Phantom) -> None:
    save(phantom.labels, folder / "a_mask.nii.gz")
    (folder / "labels.json").write_text('{"liver": ', encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (empty, InputError, "support mask is empty.*a_mask"),
        (shifted, GeometryError, "different grids.*a_mask"),
        (one_slice, GeometryError, "mask is a single slice and the image a volume.*a_mask"),
        (folder_of_that_name, InputError, "no image with its mask was found"),
        (damaged_names, InputError, "label names cannot be read.*labels.json"),
    ],
)
def test_bad_folders(
    spoil: Callable[[Path, Phantom], None],
    error: type[Exception],
    text: str,
    shown: Phantom,
    tmp_path: Path,
) -> None:
    save(shown.image, tmp_path / "a.nii.gz", kind="image")
    spoil(tmp_path, shown)
    with pytest.raises(error, match=text):
        Support.from_folder(tmp_path, target="liver")


def test_bad_arguments(shown: Phantom, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no example was given for 'x'"):
        Support.from_files([], name="x")
    with pytest.raises(UsageError, match=r"0 support slices"):
        Support.from_volumes(shown.image, shown.labels, name="x", label=LIVER, slices=0)
    with pytest.raises(InputError, match=r"the mask lacks label 99 .*m\.nii.*Choose one of those"):
        marked(shown.labels.array, label=99, where="m.nii")
    with pytest.raises(InputError, match=r"not a folder"):
        SupportFolder(tmp_path / "nowhere")
    for label in ("liver", 1.5, (1, "x")):
        with pytest.raises(UsageError, match=r"is no label.*Give label=, a number"):
            Support.from_volumes(shown.image, shown.labels, name="x", label=label)


def test_hidden_files_are_no_examples(shown: Phantom, tmp_path: Path) -> None:
    for image, mask in (
        ("beside/a.nii.gz", "beside/a_mask.nii.gz"),
        ("two/images/a.nii.gz", "two/labels/a.nii.gz"),
    ):
        save_pair(shown, tmp_path / image, tmp_path / mask, label=LIVER)
        for path in (tmp_path / image, tmp_path / mask):
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(100))
            path.with_name(".DS_Store").write_bytes(b"x")
    for folder in ("beside", "two"):
        assert [image.name for image, _ in SupportFolder(tmp_path / folder).pairs] == ["a.nii.gz"]
        assert Support.from_folder(tmp_path / folder, target="liver").masks.any()


def test_regions_are_all_of_their_labels(shown: Phantom, tmp_path: Path) -> None:
    """The labels of nnU-Net's region-based training overlap: `whole` is liver and spleen."""
    save_pair(shown, tmp_path / "imagesTr/p_0000.nii.gz", tmp_path / "labelsTr/p.nii.gz")
    labels = {"background": 0, "whole": [LIVER, SPLEEN], "core": [SPLEEN], "empty": [77, 78]}
    about = {"labels": labels, "regions_class_order": [1, 2], "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    assert SupportFolder(tmp_path).names == {"whole": (LIVER, SPLEEN), "core": SPLEEN, "empty": (77, 78)}
    both = shown.labels.with_array(np.isin(shown.labels.array, (LIVER, SPLEEN)).astype(np.uint8))
    expected = {
        "whole": both,
        "core": shown.labels.with_array((shown.labels.array == SPLEEN).astype(np.uint8)),
    }
    for name, mask in expected.items():
        direct = Support.from_volumes(shown.image, mask, name=name)
        np.testing.assert_array_equal(Support.from_folder(tmp_path, target=name).masks, direct.masks)
    with pytest.raises(InputError, match=r"no example holds 'empty' \(labels 77 and 78\)"):
        Support.from_folder(tmp_path, target="empty")
    direct = Support.from_volumes(shown.image, shown.labels, name="whole", label=(LIVER, SPLEEN))
    np.testing.assert_array_equal(direct.masks, Support.from_folder(tmp_path, target="whole").masks)


@pytest.mark.parametrize("folders", [False, True])
def test_segments_of_slicer_are_targets(
    folders: bool, shown: Phantom, searched: Phantom, tmp_path: Path
) -> None:
    """Every file numbers its own segments; what counts is their names."""
    images, masks = (tmp_path / "images", tmp_path / "labels") if folders else (tmp_path, tmp_path)
    for folder in (images, masks):
        folder.mkdir(exist_ok=True)
    for name, phantom, segments in (
        ("a", shown, {"Liver": LIVER, "spleen": SPLEEN}),
        ("b", searched, {"spleen": SPLEEN, "liver": LIVER}),
        ("c", searched, {"spleen": SPLEEN}),
    ):
        save(phantom.image, images / f"{name}.nrrd", kind="image")
        save_segments(phantom, masks / f"{name}.seg.nrrd", **segments)
    assert SupportFolder(tmp_path).names == {"Liver": None, "spleen": None}
    liver = Support.from_folder(tmp_path, target="Liver")
    assert set(liver.sources) == {"a", "b"}
    expected = [Support.from_volumes(p.image, p.labels, name="x", label=LIVER) for p in (shown, searched)]
    np.testing.assert_array_equal(liver.masks, np.concatenate([one.masks for one in expected]))
    assert set(Support.from_folder(tmp_path, target="spleen").sources) == {"a", "b", "c"}
    with pytest.raises(UsageError, match=r"unknown target 'livr'.*Liver"):
        Support.from_folder(tmp_path, target="livr")


def test_repr_is_one_line_and_html_shows_the_masks(shown: Phantom) -> None:
    support = Support.from_volumes(shown.image, shown.labels, name="liver", label=LIVER)
    assert repr(support) == f"Support('liver': 3 slices of {shown.image.name})"
    assert "<img" in support._repr_html_()
    many = replace(support, sources=("a", "b", "c"), name="x")
    assert repr(Support.join([many, replace(many, sources=("d", "e", "f"))])).endswith(
        "6 slices of a, b, c and 3 more)"
    )
