"""A segmenter of a tiny model, which several tests of the few-shot method use."""

from __future__ import annotations

from pathlib import Path

import pytest

import latentseg as ls
from latentseg.methods.fewshot.segmenter import FewShotSegmenter


@pytest.fixture
def segmenter(tiny_model: Path) -> FewShotSegmenter:
    return ls.load(backbone=tiny_model, options=ls.SegmentOptions(min_presence=0.0))
