"""Fixtures of the batch room."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import helpers.cohorts
from latentseg.batch.work import Task


@pytest.fixture(scope="session")
def cohorts() -> SimpleNamespace:
    """What `cohorts.py` defines."""
    return SimpleNamespace(**vars(helpers.cohorts))


@pytest.fixture
def cohort(tmp_path: Path, cohorts: SimpleNamespace) -> Path:
    """Three small scans."""
    folder: Path = cohorts.make_cohort(tmp_path / "in", 3)
    return folder


@pytest.fixture
def task(cohorts: SimpleNamespace) -> Task:
    """The stand-in, asked for one target."""
    return Task(cohorts.Threshold(), ("bright",), "weights-1")
