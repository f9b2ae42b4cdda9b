"""Volumes through the segmenter: grids, shared work, order, slabs, modes, presence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import latentseg as ls
from latentseg.errors import GeometryError, InputError, UsageError
from latentseg.imaging import Volume, default_suffix, read, to_canonical, write_like
from latentseg.methods.fewshot.matching_features import MatchingFeatures
from latentseg.methods.fewshot.nearest_example import NearestExample
from latentseg.methods.fewshot.part import EncodedScan, Part, Search, Tensors
from latentseg.methods.fewshot.parts import SegmentOptions
from latentseg.methods.fewshot.segmenter import FewShotSegmenter
from latentseg.methods.fewshot.support import Support
from latentseg.phantom.bodies import Phantom


@pytest.fixture
def load(tiny_model: Path) -> Callable[..., FewShotSegmenter]:
    def loaded(**options: object) -> FewShotSegmenter:
        return ls.load(backbone=tiny_model, options=SegmentOptions(**{"min_presence": 0.0} | options))  # type: ignore[arg-type]

    return loaded


@pytest.fixture
def liver(shown: Phantom) -> Support:
    return Support.from_volumes(shown.image, shown.labels, name="liver", label=1)


@pytest.fixture
def spleen(shown: Phantom) -> Support:
    return Support.from_volumes(shown.image, shown.labels, name="spleen", label=4)


def oblique(order: tuple[int, int, int], flips: tuple[int, int, int]) -> np.ndarray:
    """An affine of permuted, flipped, anisotropic and slightly turned axes."""
    turned = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
    axes = turned[:, order] * np.array(flips) * np.array([5.5, 5.4, 20.0])[list(order)]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, [-17.123456, 3.3, 0.1]
    return affine


@pytest.mark.parametrize(
    ("order", "flips"),
    [((0, 1, 2), (-1, -1, 1)), ((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (1, -1, 1)), ((1, 2, 0), (-1, 1, -1))],
)
def test_the_output_has_the_grid_of_the_input(
    order: tuple[int, int, int],
    flips: tuple[int, int, int],
    load: Callable[..., FewShotSegmenter],
    liver: Support,
    searched: Phantom,
    tmp_path: Path,
) -> None:
    array = searched.image.array.transpose(order)
    image = nib.Nifti1Image(array, None)
    image.set_qform(oblique(order, flips), code=1)
    image.set_sform(oblique(order, flips), code=2)
    nib.save(image, tmp_path / "scan.nii.gz")
    result = load()(read(tmp_path / "scan.nii.gz"), [liver])["liver"]
    assert result.mask.shape == result.probability.shape == array.shape
    result.save(tmp_path / "out")
    before = nib.load(tmp_path / "scan.nii.gz")
    for kind, dtype in (("seg", np.uint8), ("prob", np.float32)):
        after = nib.load(tmp_path / "out" / "scan" / f"scan_{kind}-liver.nii.gz")
        assert after.shape == before.shape
        assert after.affine.tobytes() == before.affine.tobytes()
        assert after.get_data_dtype() == dtype
        for field in ("qform_code", "sform_code", "quatern_b", "qoffset_x", "srow_x", "pixdim", "xyzt_units"):
            assert after.header[field].tobytes() == before.header[field].tobytes()
    mask = np.asarray(nib.load(tmp_path / "out" / "scan" / "scan_seg-liver.nii.gz").dataobj)
    np.testing.assert_array_equal(mask, result.mask)


def test_axis_order_does_not_change_the_answer(
    load: Callable[..., FewShotSegmenter], liver: Support, searched: Phantom
) -> None:
    scan = searched.image
    affine = scan.affine_ras_mm[:, [1, 0, 2, 3]].copy()
    affine[:, 3] += affine[:, 0] * (scan.shape[1] - 1)
    affine[:, 0] *= -1
    turned = Volume(np.ascontiguousarray(scan.array.transpose(1, 0, 2)[::-1]), affine, "CT")
    straight, other = (load()(volume, [liver])["liver"] for volume in (scan, turned))
    np.testing.assert_array_equal(other.probability[::-1].transpose(1, 0, 2), straight.probability)
    assert straight.volume_ml == pytest.approx(other.volume_ml)


def test_targets_share_one_pass_over_the_scan(
    load: Callable[..., FewShotSegmenter],
    liver: Support,
    spleen: Support,
    searched: Phantom,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segmenter = load(finer=None)
    contexts = [segmenter.encode(support) for support in (liver, spleen)]
    described: list[int] = []
    plain = MatchingFeatures.plain

    def counted(features: MatchingFeatures, images: torch.Tensor) -> torch.Tensor:
        described.append(len(images))
        return plain(features, images)

    monkeypatch.setattr(MatchingFeatures, "plain", counted)
    stages: list[str] = []
    results = segmenter(searched.image, contexts, on_progress=lambda done, total, stage: stages.append(stage))
    assert sum(described) == searched.image.shape[2]
    assert list(results) == ["liver", "spleen"]
    assert stages == ["reading the scan", "liver", "spleen", "done"]
    alone = segmenter(searched.image, [contexts[1]])["spleen"]
    np.testing.assert_array_equal(alone.probability, results["spleen"].probability)


@pytest.mark.parametrize("mode", ["nearest", "joint"])
def test_order_and_slab_do_not_change_the_answer(
    mode: str, load: Callable[..., FewShotSegmenter], liver: Support, spleen: Support, searched: Phantom
) -> None:
    one = load(support_mode=mode, slab=1)(searched.image, [liver, spleen])
    eight = load(support_mode=mode, slab=8)(searched.image, [spleen, liver])
    for name in ("liver", "spleen"):  # matching features are kept in half precision: a last digit of 5e-4
        apart = np.abs(one[name].probability - eight[name].probability)
        assert apart.max() < 1e-3
        assert apart.mean() < 1e-4


def test_nearest_uses_one_slice_and_joint_all(
    load: Callable[..., FewShotSegmenter], liver: Support, searched: Phantom
) -> None:
    nearest, joint = (load(support_mode=mode, volume=None) for mode in ("nearest", "joint"))
    assert len(nearest.encode(liver).tensors["network/fg"]) == 3
    assert len(joint.encode(liver).tensors["network/fg"]) == 1
    by_slice, together = (s(searched.image, [liver])["liver"].probability for s in (nearest, joint))
    assert np.abs(by_slice - together).max() > 1e-4
    first = Support("liver", liver.images[:1], liver.masks[:1], liver.sources[:1])
    by_slice, together = (s(searched.image, [first])["liver"].probability for s in (nearest, joint))
    np.testing.assert_allclose(by_slice, together, atol=1e-4)


def test_nearest_finds_the_slice_itself(load: Callable[..., FewShotSegmenter], liver: Support) -> None:
    segmenter, order = load(volume=None), [2, 0, 1]
    scan = segmenter.encode_slices(liver.images[order], (5.0, 1.0, 1.0))
    search = NearestExample()(Search.everywhere(scan), scan, segmenter.encode(liver).of("nearest example"))
    assert search.group is not None
    assert search.group.tolist() == order


@pytest.mark.parametrize("mode", ["nearest", "joint"])
def test_official_rules_on_volumes(
    mode: str, load: Callable[..., FewShotSegmenter], liver: Support, searched: Phantom
) -> None:
    result = load(compat="official", support_mode=mode)(searched.image, [liver])["liver"]
    assert result.mask.shape == searched.image.shape
    assert result.probability.dtype == np.float32
    assert 0 <= result.probability.min() <= result.probability.max() <= 1


def test_official_uses_the_nearest_support_slice(
    load: Callable[..., FewShotSegmenter], liver: Support, searched: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = load(compat="official")
    groups: list[torch.Tensor] = []
    inner = segmenter.networks.sdfsmis.network.segment

    def spy(*args: object, group: torch.Tensor, **kwargs: object) -> torch.Tensor:
        groups.append(group)
        return inner(*args, group=group, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(segmenter.networks.sdfsmis.network, "segment", spy)
    context, prepared = segmenter.encode(liver), segmenter.prepare(searched.image)
    segmenter.predict(prepared, context)
    layouts = (one.of("nearest example")["layout"] for one in (prepared.encoded, context))
    assert torch.cat(groups).equal(torch.matmul(next(layouts), next(layouts).T).argmax(1))


def test_official_is_the_paper_and_nothing_else(load: Callable[..., FewShotSegmenter]) -> None:
    assert [part.name for part in load(compat="official").parts] == ["nearest example", "network"]


def test_official_contexts_stay_official(
    load: Callable[..., FewShotSegmenter], liver: Support, searched: Phantom
) -> None:
    context = load(compat="official").encode(liver)
    with pytest.raises(UsageError, match=r"'liver' was encoded with compat='official'"):
        load()(searched.image, [context])


def test_absent_is_an_answer(
    load: Callable[..., FewShotSegmenter], liver: Support, searched: Phantom
) -> None:
    segmenter = load(min_presence=1.01)
    result = segmenter(searched.image, [liver])["liver"]
    assert result.absent
    assert result.stats()["absent"]
    assert result.volume_ml == result.components == 0
    assert result.stats()["centroid_ras_mm"] is None
    assert 0 <= result.presence <= 1
    assert result.preview().startswith(b"\x89PNG")
    assert not load()(searched.image, [liver])["liver"].absent


class Answer(Part):
    """Finds the target everywhere it is asked, and remembers where and by which example."""

    name = "answer"

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.taken: list[list[int]] = []

    def __call__(self, search: Search, scan: EncodedScan, support: Tensors) -> Search:
        self.asked.append(search.at.tolist())
        self.taken.append([] if search.group is None else search.group.tolist())
        assert len(search.at) == len(scan)
        return replace(search, log_odds=search.log_odds + 2)


class Elsewhere(Part):
    """Says that the scan shows something else."""

    name = "elsewhere"

    def __call__(self, search: Search, scan: EncodedScan, support: Tensors) -> Search:
        return replace(search, in_view=0 * search.in_view, reason="the scan shows a thigh")


def test_an_absent_target_is_absent_for_a_reason(
    load: Callable[..., FewShotSegmenter], liver: Support, searched: Phantom
) -> None:
    networks, options = load().networks, SegmentOptions(min_presence=0.5)
    answer = Answer()
    absent = FewShotSegmenter(networks, options=options, parts=[answer, Elsewhere()])
    result = absent(searched.image, liver)["liver"]
    assert result.absent
    assert result.presence == 0
    assert result.stats()["reason"] == result.reason == "the scan shows a thigh"
    assert answer.asked == [list(range(len(to_canonical(searched.image).slices)))]  # all slices are searched
    present = FewShotSegmenter(networks, options=options, parts=[Answer()])(searched.image, liver)["liver"]
    assert "reason" not in present.stats()


def test_parts_can_be_left_out(load: Callable[..., FewShotSegmenter]) -> None:
    segmenter = load()
    names = [part.name for part in segmenter.parts]
    assert [part.name for part in segmenter.without("network").parts] == [n for n in names if n != "network"]
    with pytest.raises(UsageError, match=r"no part 'netwerk'.*Choose from"):
        segmenter.without("netwerk")


def test_a_prepared_scan_tells_its_size(load: Callable[..., FewShotSegmenter], searched: Phantom) -> None:
    prepared = load().prepare(searched.image)
    assert prepared.nbytes >= searched.image.array.nbytes + 4 * prepared.seen.images.size
    assert prepared.scan is searched.image


def test_a_support_keeps_its_scan(liver: Support) -> None:
    (scan,) = liver.scans
    assert scan.images.dtype == np.float16
    assert scan.images.shape == scan.masks.shape
    assert 3 <= scan.masks.any((1, 2)).sum() < len(scan.masks)
    assert scan.known.all()
    assert len(Support.join([liver, liver]).scans) == 2


@pytest.mark.parametrize("shape", [(2, 2, 1), (3, 2, 4), (1, 1, 9), (99, 3, 2)])
def test_scans_of_any_size(
    shape: tuple[int, int, int], load: Callable[..., FewShotSegmenter], liver: Support, tmp_path: Path
) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 300
    scan = Volume(array, np.diag([-1.0, -1, 5, 1]), "CT")
    with pytest.warns(ls.LatentsegWarning) if array.min() > -500 else _nothing():
        result = load()(scan, [liver])["liver"]
    assert result.mask.shape == shape
    assert len(result.save(tmp_path)) == 3


def _nothing() -> object:
    import contextlib

    return contextlib.nullcontext()


def test_small_targets_give_finite_numbers(load: Callable[..., FewShotSegmenter], searched: Phantom) -> None:
    labels = np.zeros(searched.image.shape, np.uint8)
    labels[30, 30, 3] = 1
    dot = Support.from_volumes(searched.image, searched.labels.with_array(labels), name="dot")
    whole = Support.from_volumes(searched.image, searched.labels.with_array(labels * 0 + 1), name="whole")
    for mode, compat in (("nearest", "fixed"), ("joint", "official")):
        for result in load(support_mode=mode, compat=compat)(searched.image, [dot, whole]).values():
            assert np.isfinite(result.probability).all()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"array": np.zeros((60, 64, 6), np.int16)}, InputError, "constant"),
        ({"array": np.full((60, 64, 6), np.nan, np.float32)}, InputError, "NaN"),
        ({"affine_ras_mm": np.diag([1e-4, 50.0, 1, 1])}, GeometryError, "too narrow"),
    ],
)
def test_bad_scans(
    change: dict[str, object],
    error: type[Exception],
    text: str,
    load: Callable[..., FewShotSegmenter],
    liver: Support,
    searched: Phantom,
) -> None:
    with pytest.raises(error, match=text):
        load()(replace(searched.image, **change), [liver])  # type: ignore[arg-type]


def test_a_picture_needs_pictures(
    load: Callable[..., FewShotSegmenter], liver: Support, searched: Phantom, tmp_path: Path
) -> None:
    from PIL import Image

    plane = np.clip(searched.image.array[:, :, 3].T / 4 + 128, 0, 255).astype(np.uint8)
    Image.fromarray(plane).save(tmp_path / "slice.png")
    mask = (searched.labels.array[:, :, 3].T == 1).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "slice_mask.png")
    picture = read(tmp_path / "slice.png")
    with pytest.raises(GeometryError, match=r"2-D image and the support 'liver'.*slice.png"):
        load()(picture, [liver])
    flat = Support.from_folder(tmp_path, target="liver")
    segmenter = load()
    result = segmenter(picture, [flat])["liver"]
    assert result.mask.shape == (60, 64, 1)
    written = result.save(tmp_path / "out")
    assert [path.name for path in written] == [
        "slice_seg-liver.png",
        "slice_prob-liver.tif",
        "slice_preview-liver.png",
    ]
    assert default_suffix(picture) == ".png"
    assert segmenter(searched.image, [flat])["liver"].mask.shape == searched.image.shape
    one = write_like(
        searched.image.array[:, :, 3:4],
        like=_first(searched.image),
        path=tmp_path / "one.nii.gz",
        kind="image",
    )
    assert load()(read(one), [liver])["liver"].mask.shape == (60, 64, 1)


def _first(volume: Volume) -> Volume:
    return replace(volume, array=volume.array[:, :, :1])


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a/b", "a_b"], ["Liver", "liver"], [" "]])
def test_names_of_targets(
    names: list[str], load: Callable[..., FewShotSegmenter], liver: Support, searched: Phantom
) -> None:
    with pytest.raises(UsageError):
        load()(searched.image, [replace(liver, name=name) for name in names])
