"""The shipped weights on small phantoms: what is found today is found tomorrow, without any data.

Few-shot compares whole scans (alignment, both searches, refinement), and tumors go through organs, closer
look, inpainting and the borders of the scan. A part that is lost moves these volumes by more than they may
move. ``python tests/golden/test_phantoms.py`` writes
``phantoms.json`` anew, after a change that is meant to change answers.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import latentseg as ls
from latentseg.backbones import registry
from latentseg.imaging import to_canonical
from latentseg.methods.results import Segmentation
from latentseg.methods.tumor.options import TumorOptions
from latentseg.phantom.bodies import Phantom, abdomen

GOLDEN = Path(__file__).with_name("phantoms.json")
FEWSHOT = [("CT", "spleen"), ("CT", "kidney_left"), ("MR", "spleen")]
TUMOR: list[tuple[Literal["CT", "MR"], int]] = [("CT", 5), ("MR", 4)]
VOLUME, PRESENCE, DICE, SLICES, RESIDUAL = (
    0.01,
    0.01,
    0.01,
    0.03,
    0.05,
)  # how far answers may move; float order may differ

pytestmark = pytest.mark.skipif(
    not registry.is_present("compact"), reason="the compact weights are not in this checkout"
)


def truth_of(phantom: Phantom, name: str) -> np.ndarray:
    label = next(value for value, organ in phantom.names.items() if organ == name)
    return np.asarray(phantom.labels.array == label)


def measured(result: Segmentation, truth: np.ndarray) -> dict[str, Any]:
    """What is remembered of an answer: volume, presence, overlap, and the volume on each slice."""
    both = 2 * np.count_nonzero(result.mask & truth) / (result.mask.sum() + truth.sum())
    on_slices = to_canonical(result.scan).apply(result.mask).sum((1, 2)) * result.scan.voxel_volume_ml
    return {
        "volume_ml": round(result.volume_ml, 3),
        "presence": round(result.presence, 4),
        "dice": round(float(both), 4),
        "slices_ml": [round(float(ml), 3) for ml in on_slices],
    }


def check(key: str, found: dict[str, Any]) -> None:
    """Compare with what is stored under a key."""
    stored = json.loads(GOLDEN.read_text(encoding="utf-8"))[key]
    total = stored["volume_ml"]
    assert found["volume_ml"] == pytest.approx(total, rel=VOLUME), found
    assert found["presence"] == pytest.approx(stored["presence"], abs=PRESENCE), found
    assert found["dice"] == pytest.approx(stored["dice"], abs=DICE), found
    assert found.get("residual", 0) == pytest.approx(stored.get("residual", 0), rel=RESIDUAL), found
    moved = np.abs(np.subtract(found["slices_ml"], stored["slices_ml"])).sum()
    assert moved <= SLICES * total, found


@functools.cache
def fewshot() -> tuple[Any, Phantom]:
    return ls.load(), abdomen(seed=2, shape=(128, 128, 16))


@functools.cache
def prepared(modality: Literal["CT", "MR"]) -> tuple[Any, Phantom]:
    query = abdomen(seed=3, modality=modality, shape=(128, 128, 16))
    return fewshot()[0].prepare(query.image), query


@functools.cache
def encoded(organ: str) -> Any:
    segmenter, shown = fewshot()
    label = next(value for value, name in shown.names.items() if name == organ)
    return segmenter.encode(ls.Support.from_volumes(shown.image, shown.labels, name=organ, label=label))


def find_organ(modality: Literal["CT", "MR"], organ: str) -> dict[str, Any]:
    scan, query = prepared(modality)
    return measured(fewshot()[0].predict(scan, encoded(organ)), truth_of(query, organ))


@functools.cache
def find_tumor(modality: Literal["CT", "MR"], seed: int) -> dict[str, Any]:
    query = abdomen(seed=seed, modality=modality, shape=(128, 128, 8), lesions=5)
    segmenter = ls.load("tumor", options=TumorOptions(anyway=True, healthy="inpainted"))
    result = segmenter(query.image, ["liver tumor"])["liver tumor"]
    residual = result.evidence.residual[
        result.evidence.refined
    ].mean()  # the mask does not tell of inpainting
    return measured(result, truth_of(query, "liver_lesion")) | {"residual": round(float(residual), 5)}


@pytest.mark.parametrize(("modality", "organ"), FEWSHOT)
def test_an_organ_is_found_as_before(modality: Literal["CT", "MR"], organ: str) -> None:
    found = find_organ(modality, organ)
    assert found["dice"] > 0.75
    check(f"{modality} {organ}", found)


@pytest.mark.parametrize(("modality", "seed"), TUMOR)
def test_a_tumor_is_found_as_before(modality: Literal["CT", "MR"], seed: int) -> None:
    found = find_tumor(modality, seed)
    assert found["dice"] > 0.4
    check(f"{modality} liver tumor {seed}", found)


def write() -> None:
    """Store what is found now."""
    answers = {f"{modality} {organ}": find_organ(modality, organ) for modality, organ in FEWSHOT}  # type: ignore[arg-type]
    answers |= {f"{modality} liver tumor {seed}": find_tumor(modality, seed) for modality, seed in TUMOR}
    GOLDEN.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
