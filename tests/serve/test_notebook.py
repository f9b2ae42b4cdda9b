"""The widgets of a notebook."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import latentseg as ls
from latentseg.errors import GeometryError, UsageError
from latentseg.methods.results import Segmentation
from latentseg.serve.view import View


@pytest.fixture
def _widget() -> None:
    pytest.importorskip("ipyniivue", reason="needs the extra [notebook]")


@pytest.mark.usefixtures("_widget")
def test_a_result_is_shown(searched, shown) -> None:
    mask = searched.labels.array == 1
    result = Segmentation("liver", searched.image, mask, mask.astype(np.float32), 1.0)
    widget = ls.show(searched.image, result)
    assert [volume.name for volume in widget.volumes] == ["volume.nii", "liver.nii"]
    assert (widget.volumes[0].cal_min, widget.volumes[0].cal_max) == (-125, 275)
    with pytest.raises(GeometryError, match="shape"):
        ls.show(shown.image, [result])


@pytest.mark.usefixtures("_widget")
def test_what_is_painted_becomes_a_support(searched) -> None:
    painting = ls.annotate(searched.image)
    with pytest.raises(UsageError, match="nothing was painted"):
        painting.support("liver")
    truth = searched.labels.array == 1
    drawn = np.zeros(View.of(searched.image).shape, np.uint8)
    drawn[:, :, 1:5] = View.of(searched.image).apply(truth)[:, :, 1:5]
    painting.widget.draw_bitmap = drawn.ravel(order="F")
    assert np.array_equal(View.of(searched.image).apply(painting.mask), drawn > 0)
    support = painting.support("liver")
    assert (support.name, len(support), len(support.scans)) == ("liver", 4, 1)
    assert "text/plain" in painting._repr_mimebundle_()[0]


def test_without_the_widget(searched, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    with pytest.raises(UsageError, match="ipyniivue"):
        ls.annotate(searched.image)
