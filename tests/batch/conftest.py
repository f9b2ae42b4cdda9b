"""Fixtures of the batch room."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from latentseg.batch.work import Task

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def cohorts() -> SimpleNamespace:
    """What `cohorts.py` defines."""
    return SimpleNamespace(**runpy.run_path(str(HERE / "cohorts.py")))


@pytest.fixture
def cohort(tmp_path: Path, cohorts: SimpleNamespace) -> Path:
    """Three small scans."""
    folder: Path = cohorts.make_cohort(tmp_path / "in", 3)
    return folder


@pytest.fixture
def task(cohorts: SimpleNamespace) -> Task:
    """The stand-in, asked for one target."""
    return Task(cohorts.Threshold(), ("bright",), "weights-1")
