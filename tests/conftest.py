"""Settings and fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest

hypothesis.settings.register_profile("latentseg", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("latentseg")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from the user's cache and settings."""
    monkeypatch.setenv("LATENTSEG_HOME", str(tmp_path_factory.mktemp("latentseg_home")))
    monkeypatch.delenv("LATENTSEG_OFFLINE", raising=False)


@pytest.fixture
def phantom_files(tmp_path: Path) -> Path:
    """A folder with what the README reads: `ct.nii.gz`, `support.nii.gz`, `support_mask.nii.gz` (liver)."""
    from latentseg.imaging import write_like
    from latentseg.imaging.phantom import abdomen

    for name, seed in (("ct", 1), ("support", 2)):
        phantom = abdomen(seed=seed, modality="CT", shape=(96, 96, 12))
        write_like(phantom.image.array, like=phantom.image, path=tmp_path / f"{name}.nii.gz", kind="image")
        liver = next(value for value, organ in phantom.names.items() if organ == "liver")
        if name == "support":
            mask = phantom.labels.array == liver
            write_like(mask, like=phantom.image, path=tmp_path / "support_mask.nii.gz")
    return tmp_path
