"""The phantoms: anatomy in its place, patients that differ, the same seed the same patient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from latentseg.errors import UsageError
from latentseg.imaging import guess_modality, normalize, to_canonical
from latentseg.phantom.bodies import CHEST_LABELS, LABELS, Phantom, abdomen, chest, limb

SHAPE = (64, 64, 16)
SEEDS = range(6)


def _organs(phantom: Phantom) -> dict[str, Any]:
    """Center `(S, H, W)` and volume in ml of every organ."""
    slices, ml = to_canonical(phantom.labels).slices, phantom.labels.voxel_volume_ml
    found = {name: np.argwhere(slices == value) for value, name in phantom.names.items()}
    return {name: (at.mean(0), len(at) * ml) for name, at in found.items() if len(at)}


@pytest.mark.parametrize("seed", SEEDS)
def test_organs_lie_where_they_belong(seed: int) -> None:
    organs = _organs(abdomen(seed=seed, shape=SHAPE))
    where = {name: center for name, (center, _) in organs.items()}
    assert where["liver"][2] < where["spleen"][2], "liver on the patient's right: image left"
    assert where["kidney_right"][2] < where["vertebrae"][2] < where["kidney_left"][2]
    assert where["inferior_vena_cava"][2] < where["aorta"][2]
    assert all(where["vertebrae"][1] > where[name][1] for name in ("liver", "stomach", "aorta", "pancreas"))
    assert where["liver"][0] > where["kidney_right"][0]
    ml = {name: volume for name, (_, volume) in organs.items()}
    assert 600 < ml["liver"] < 2600
    assert 40 < ml["spleen"] < 600
    assert all(80 < ml[f"kidney_{side}"] < 350 for side in ("right", "left"))
    assert {"liver", "spleen", "stomach", "aorta", "portal_vein", "pancreas"} <= set(ml)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_chest_has_lungs_beside_and_a_spine_behind_the_heart(seed: int) -> None:
    made = chest(seed=seed, shape=SHAPE)
    assert made.names == dict(enumerate(CHEST_LABELS, start=1))
    organs = _organs(made)
    assert 1500 < organs["lung"][1] < 9000
    assert organs["vertebrae"][0][1] > organs["aorta"][0][1]
    lungs = to_canonical(made.labels).slices[8] == 1
    middle = lungs.shape[1] // 2
    assert min(lungs[:, :middle].sum(), lungs[:, middle:].sum()) > 0.2 * lungs.sum(), "one on each side"
    values = made.image.array[made.labels.array == 1]
    assert np.median(values) < -600


def test_below_most_chests_lies_a_liver() -> None:
    chests = [_organs(chest(seed=seed, shape=SHAPE)) for seed in SEEDS]
    heights = [(organs["liver"][0][0], organs["lung"][0][0]) for organs in chests if "liver" in organs]
    assert len(heights) >= len(chests) / 2
    assert all(liver < lung for liver, lung in heights)


def test_a_chest_is_another_patient_for_another_seed_and_the_same_for_the_same() -> None:
    first, again, other = (chest(seed=seed, shape=SHAPE) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image.array, again.image.array)
    assert (first.labels.array != other.labels.array).mean() > 0.02


def test_the_same_seed_is_the_same_patient_in_ct_and_mr() -> None:
    ct, again, mr = (abdomen(seed=5, modality=m, shape=SHAPE, lesions=1) for m in ("CT", "CT", "MR"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(ct.image.array, again.image.array)
    np.testing.assert_array_equal(ct.labels.array, mr.labels.array)
    np.testing.assert_array_equal(ct.image.affine_ras_mm, mr.labels.affine_ras_mm)
    assert guess_modality(ct.image.array) == "CT" == ct.image.modality
    assert guess_modality(mr.image.array) == "MR" == mr.image.modality


def test_patients_differ() -> None:
    livers = [_organs(abdomen(seed=seed, shape=SHAPE))["liver"] for seed in SEEDS]
    volumes = [volume for _, volume in livers]
    assert np.std(volumes) / np.mean(volumes) > 0.05
    first, second = (abdomen(seed=seed, shape=SHAPE).labels.array == 1 for seed in (0, 1))
    assert 2 * (first & second).sum() / (first.sum() + second.sum()) < 0.9


def test_tissues_have_their_hounsfield_units() -> None:
    phantom = abdomen(seed=3, shape=SHAPE)
    means = {
        name: phantom.image.array[phantom.labels.array == value].mean()
        for value, name in phantom.names.items()
        if (phantom.labels.array == value).any()
    }
    assert 60 < means["liver"] < 160
    assert means["aorta"] > means["liver"] - 10
    assert phantom.image.array.min() < -900
    assert normalize(phantom.image.array, modality="CT").std() > 0.3


@pytest.mark.parametrize("lesions", [0, 1, 4])
def test_lesions_are_labeled_inside_the_liver(lesions: int) -> None:
    phantom = abdomen(seed=2, shape=SHAPE, lesions=lesions)
    value = {name: value for value, name in phantom.names.items()}["liver_lesion"]
    found = (phantom.labels.array == value).sum()
    assert (found > 0) == (lesions > 0)
    healthy = abdomen(seed=2, shape=SHAPE)
    outside = (healthy.labels.array != 1) & (phantom.labels.array == value)
    assert not outside.any()


@pytest.mark.parametrize("shape", [(16, 16, 1), (17, 33, 2), (40, 20, 3)])
def test_any_grid(shape: tuple[int, int, int]) -> None:
    for modality in ("CT", "MR"):
        phantom = abdomen(seed=1, modality=modality, shape=shape, lesions=1)  # type: ignore[arg-type]
        assert phantom.image.shape == phantom.labels.shape == shape
        assert phantom.image.axis_codes == "LPS"
        assert phantom.labels.array.dtype == np.uint8
    assert list(phantom.names.values()) == list(LABELS)


@pytest.mark.parametrize("options", [{"modality": "PET"}, {"shape": (8, 8, 8)}, {"shape": (64, 64)}])
def test_impossible_phantoms(options: Any) -> None:
    with pytest.raises(UsageError):
        abdomen(seed=0, **options)


def test_an_impossible_chest() -> None:
    with pytest.raises(UsageError, match="unknown phantom modality 'PET'"):
        chest(seed=0, modality="PET")  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_limb_has_bone_inside_muscle_inside_fat(seed: int) -> None:
    mr, ct = (limb(seed=seed, modality=modality, shape=SHAPE) for modality in ("MR", "CT"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(mr.labels.array, ct.labels.array)
    assert mr.image.modality == "MR"
    bone = to_canonical(ct.labels).slices == 1
    assert bone.any(axis=(1, 2)).all(), "a long bone is on every slice"
    assert bone.mean() < 0.1
    hounsfield, bright = (to_canonical(made.image).slices for made in (ct, mr))
    fat = (hounsfield > -130) & (hounsfield < -80) & ~bone
    muscle = (hounsfield > 30) & (hounsfield < 90) & ~bone
    assert fat.any()
    assert bright[fat].mean() > 1.5 * bright[muscle].mean(), "fat is bright in T1"
    body = hounsfield > -300
    assert 0.05 < body.mean() < 0.9
