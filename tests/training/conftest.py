"""What several tests of trainings start from: a small pack and a tiny autoencoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers import packs
from latentseg.backbones.compact import CompactAutoencoder, CompactBackbone, save_autoencoder
from latentseg.training.pack import Pack


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Two phantoms of 8 slices with pseudo-labels."""
    return packs.small_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny autoencoder on disk."""
    packs.shrink_networks(monkeypatch)
    torch.manual_seed(0)
    save_autoencoder(CompactAutoencoder(), tmp_path / "autoencoder")
    return tmp_path / "autoencoder"


@pytest.fixture
def backbone(folder: Path) -> CompactBackbone:
    return CompactBackbone.from_folder(folder)
