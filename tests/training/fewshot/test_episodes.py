"""Episodes: shapes, where slices and targets come from, and what is drawn independently of what."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from helpers import packs
from latentseg.errors import InputError
from latentseg.training.augment import Geometry
from latentseg.training.fewshot import episodes as module
from latentseg.training.fewshot.episodes import EpisodeBatch, EpisodeOptions, Episodes
from latentseg.training.pack import Pack, PackedScan, save_array

STILL = Geometry(degrees=0, zoom=(1, 1), stretch=0, shift=0, elastic=0)
OPTIONS = EpisodeOptions(scenes=3, targets=2, queries=4, min_area=12, painted=0.3)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the contrast as it is."""
    monkeypatch.setattr(module, "recolor", lambda images, rng, **_: images)


def options(**changes: object) -> EpisodeOptions:
    return EpisodeOptions(**{**OPTIONS.model_dump(), **changes})


def hand_made(
    folder: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8], *, counts: tuple[int, ...]
) -> Pack:
    """A pack of scans ``counts`` slices deep whose supervoxels are its labels."""
    save_array(folder / "images.npy", images)
    save_array(folder / "labels.npy", labels)
    save_array(folder / "supervoxels.npy", labels.astype(np.uint16))
    about = {"source": "made", "modality": "CT", "spacing_mm": (5.0, 1.0, 1.0), "labels": {1: "a", 2: "b"}}
    rows = [
        PackedScan(case=f"case_{i}", first=sum(counts[:i]), count=count, **about)
        for i, count in enumerate(counts)
    ]
    (folder / "pack.json").write_text(
        json.dumps([row.model_dump(mode="json") for row in rows]), encoding="utf-8"
    )
    return Pack(folder)


@pytest.fixture
def numbered(tmp_path: Path) -> Pack:
    """Three scans; the grey value of a slice is ten times its number plus ten.

    Organ 1 is in slices 0-3 of each scan of 6, organ 2 in slices 3-5; both grow from slice to slice.
    """
    images = np.repeat(np.arange(1, 19, dtype=np.uint8) * 10, 32 * 32).reshape(18, 32, 32)
    labels = np.zeros((18, 32, 32), np.uint8)
    for index in range(18):
        at = slice(8, 14 + index)
        if index % 6 <= 3:
            labels[index, 2 : 8 + index % 6, 2:10] = 1
        if index % 6 >= 3:
            labels[index, 16:24, at] = 2
    return hand_made(tmp_path, images, labels, counts=(6, 6, 6))


def slice_of(image: Tensor) -> int:
    """Which slice of ``numbered`` this is."""
    return round(float((image.mean() + 1) * 127.5)) // 10 - 1


def draws(packed: Pack, chosen: EpisodeOptions, *, n: int = 12) -> list[EpisodeBatch]:
    source = Episodes(packed, chosen)
    return [source.draw(np.random.default_rng((3, i))) for i in range(n)]


def test_shapes_and_ranges(packed: Pack) -> None:
    for batch in draws(packed, OPTIONS, n=3):
        assert batch.support_images.shape == (3, 1, 64, 64)
        assert batch.query_images.shape == (12, 1, 64, 64)
        assert batch.support_masks.shape == (6, 64, 64)
        assert batch.query_masks.shape == (24, 64, 64)
        for images in batch[:2]:
            assert float(images.abs().max()) <= 1
        for masks in batch[2:]:
            assert masks.dtype == torch.float32
            assert set(masks.unique().tolist()) <= {0.0, 1.0}


def test_a_batch_depends_on_the_generator_alone(packed: Pack) -> None:
    first, second = Episodes(packed, OPTIONS), Episodes(packed, OPTIONS)
    second.draw(np.random.default_rng(99))
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002 - to show that it does not matter
    a, b = (source.draw(np.random.default_rng(4)) for source in (first, second))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    other = first.draw(np.random.default_rng(5))
    assert not torch.equal(a.support_images, other.support_images)


def test_targets_are_mostly_there(packed: Pack) -> None:
    batches = draws(packed, OPTIONS)
    support = torch.cat([batch.support_masks for batch in batches]).sum((1, 2))
    query = torch.cat([batch.query_masks for batch in batches]).sum((1, 2))
    assert float((support > 0).float().mean()) > 0.95
    assert 0.5 < float((query > 0).float().mean()) < 1  # some queries do not hold the target


@pytest.mark.usefixtures("plain")
def test_labelled_targets_are_labels_of_the_pack(packed: Pack) -> None:
    still = options(labelled=1.0, geometry=STILL, other_patient=0.0)
    images = torch.tensor(np.array(packed.images), dtype=torch.float32) / 127.5 - 1
    for batch in draws(packed, still, n=6):
        for scene, image in enumerate(batch.support_images[:, 0]):
            (index,) = ((images - image).abs().amax((1, 2)) < 1e-4).nonzero().flatten().tolist()
            for mask in batch.support_masks[2 * scene : 2 * scene + 2]:
                ids = set(np.unique(packed.labels[index][mask.numpy() > 0]).tolist())
                assert len(ids) == 1
                assert ids <= packs.KEEP.keys()
                assert np.array_equal(packed.labels[index] == ids.pop(), mask.numpy() > 0)


@pytest.mark.usefixtures("plain")
def test_queries_of_another_patient_are_of_another_patient(numbered: Pack) -> None:
    everywhere = options(labelled=1.0, other_patient=1.0, elsewhere=0.0, geometry=STILL, targets=1)
    for batch in draws(numbered, everywhere):
        for scene, image in enumerate(batch.support_images):
            support = slice_of(image)
            queries = [slice_of(query) for query in batch.query_images[4 * scene : 4 * scene + 4]]
            assert all(query // 6 != support // 6 for query in queries)
            masks = batch.query_masks[4 * scene : 4 * scene + 4]
            assert (masks.sum((1, 2)) > 0).all()  # they hold what is asked for


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("labelled", [0.0, 1.0])
def test_queries_of_the_same_scan_are_near(numbered: Pack, labelled: float) -> None:
    within = options(
        labelled=labelled, other_patient=0.0, elsewhere=0.0, painted=0.0, reach_mm=10.0, geometry=STILL
    )
    distances = []
    for batch in draws(numbered, within):
        for scene, image in enumerate(batch.support_images):
            support = slice_of(image)
            for query in batch.query_images[4 * scene : 4 * scene + 4]:
                assert slice_of(query) // 6 == support // 6
                distances.append(abs(slice_of(query) - support))
    assert set(distances) == {0, 1, 2}  # slices are 5 mm apart


@pytest.mark.usefixtures("plain")
def test_elsewhere_labels_are_asked_for_anywhere_and_supervoxels_far_away(numbered: Pack) -> None:
    anywhere = options(elsewhere=1.0, painted=0.0, geometry=STILL, far_mm=15.0)
    labelled, pseudo = (
        draws(numbered, anywhere.model_copy(update={"labelled": share})) for share in (1.0, 0.0)
    )
    scans = set()
    for batch in labelled:
        for scene, image in enumerate(batch.support_images):
            for query in batch.query_images[4 * scene : 4 * scene + 4]:
                scans.add(slice_of(query) // 6 == slice_of(image) // 6)
    assert scans == {True, False}
    for batch in pseudo:
        for scene, image in enumerate(batch.support_images):
            support = slice_of(image)
            for query in batch.query_images[4 * scene : 4 * scene + 4]:
                assert slice_of(query) // 6 == support // 6
                assert abs(slice_of(query) - support) >= 3  # slices are 5 mm apart


@pytest.mark.usefixtures("plain")
def test_masks_belong_to_their_slices(numbered: Pack) -> None:
    still = options(labelled=0.5, painted=0.0, merge=0.0, geometry=STILL)
    for batch in draws(numbered, still):
        queries = batch.query_masks.unflatten(0, (3, 2, 4))
        for scene, image in enumerate(batch.support_images):
            for target, mask in enumerate(batch.support_masks[2 * scene : 2 * scene + 2]):
                (label,) = {int(i) for i in numbered.labels[slice_of(image)][mask.numpy() > 0]}
                for query, found in zip(
                    batch.query_images[4 * scene :], queries[scene, target], strict=False
                ):
                    truth = numbered.labels[slice_of(query)] == label
                    assert np.array_equal(truth, found.numpy() > 0)


@pytest.mark.usefixtures("plain")
def test_image_and_mask_are_deformed_together(tmp_path: Path) -> None:
    rows, columns = np.indices((48, 48))
    blob = (rows - 20) ** 2 / 90 + (columns - 27) ** 2 / 50 < 1
    images = np.where(blob, 255, 0).astype(np.uint8)[None].repeat(6, 0)
    packed = hand_made(tmp_path, images, (images > 0).astype(np.uint8), counts=(6,))
    strong = Geometry(degrees=25, zoom=(0.8, 1.2), stretch=0.2, shift=0.08, elastic=0.02, flip=0.5)
    batch = Episodes(packed, options(painted=0.0, geometry=strong, targets=1)).draw(np.random.default_rng(1))
    images = torch.cat([batch.support_images, batch.query_images])[:, 0] > 0
    masks = torch.cat([batch.support_masks, batch.query_masks]) > 0
    overlap = 2 * (images & masks).sum((1, 2)) / (images.sum((1, 2)) + masks.sum((1, 2)))
    assert float(overlap.min()) > 0.97
    centers = torch.stack([torch.stack(torch.where(mask)).float().mean(1) for mask in masks])
    assert float(centers.std(0).min()) > 1  # and each slice in its own way


def test_painted_scenes_keep_their_masks(numbered: Pack) -> None:
    batch = Episodes(numbered, options(labelled=0.0, painted=1.0, merge=0.0, geometry=STILL)).draw(
        np.random.default_rng(0)
    )
    values = [
        image[mask > 0].mean()
        for image, mask in zip(batch.support_images[:, 0], batch.support_masks[::2], strict=True)
    ]
    assert len({round(float(value), 2) for value in values}) == 3  # each scene has its own paint
    assert (batch.support_masks.sum((1, 2)) > 0).all()


@pytest.mark.parametrize(("one_look", "alike"), [(0.0, False), (1.0, True)])
def test_support_and_query_look_alike_only_by_chance_or_choice(
    packed: Pack, one_look: float, alike: bool
) -> None:
    same_slice = options(
        painted=0.0, labelled=0.0, elsewhere=0.0, reach_mm=0.0, geometry=STILL, one_look=one_look
    )
    correlations = []
    for batch in draws(packed, same_slice, n=8):
        for scene, image in enumerate(batch.support_images):
            query = batch.query_images[4 * scene]
            assert torch.equal(batch.support_masks[2 * scene], batch.query_masks[8 * scene])
            correlations.append(float(torch.corrcoef(torch.stack([image, query]).flatten(1))[0, 1]))
    assert (np.min(correlations) > 0.3) == alike


def test_merged_supervoxels_contain_the_one_that_was_drawn(packed: Pack) -> None:
    source = Episodes(packed, options(merge=1.0))
    image, ids = packed.images[4], packed.supervoxels[4].astype(np.int64)
    label = max(source.areas["supervoxels"][4], key=source.areas["supervoxels"][4].get)
    targets = [source._target(np.random.default_rng(i), label, image, ids, True) for i in range(10)]
    assert all(label in target and 0 not in target for target in targets)
    assert max(len(target) for target in targets) > 1
    assert source._target(np.random.default_rng(0), label, image, ids, False).tolist() == [label]


def test_packs_that_cannot_serve(tmp_path: Path, numbered: Pack) -> None:
    bare = packs.small_pack(tmp_path / "bare", supervoxels=False)
    with pytest.raises(InputError, match="latentseg train supervoxels"):
        Episodes(bare, OPTIONS)
    with pytest.raises(InputError, match="no slice has labels of 900 pixels"):
        Episodes(numbered, options(min_area=900))
    save_array(numbered.folder / "labels.npy", np.zeros((18, 32, 32), np.uint8))
    unlabelled = Pack(numbered.folder)
    with pytest.raises(InputError, match="no slice has labels"):
        Episodes(unlabelled, options(labelled=0.2))
    assert Episodes(unlabelled, options(labelled=0.0)).draw(np.random.default_rng(0)).query_masks.any()


@pytest.mark.usefixtures("plain")
def test_the_easiest_episodes_ask_for_the_slice_that_is_shown(numbered: Pack) -> None:
    source = Episodes(numbered, options(labelled=0.5, painted=0.0, geometry=STILL))
    batch = source.draw(np.random.default_rng(0), ease=1.0)
    assert torch.equal(batch.query_images, batch.support_images.repeat_interleave(4, 0))
    assert torch.equal(batch.query_masks, batch.support_masks.repeat_interleave(4, 0))
