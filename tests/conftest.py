"""Settings and fixtures shared by all tests."""

from __future__ import annotations

import os

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
