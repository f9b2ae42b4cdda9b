"""Cut-outs: what is inside comes back to its place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentseg.methods.cutouts import CutOuts, box_of


def smooth_images(count: int, size: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    return torch.stack([torch.sin(3 * rows + n) + torch.cos(4 * columns) for n in range(count)])[:, None]


@settings(max_examples=30, deadline=None)
@given(row=st.floats(20, 44), column=st.floats(20, 44), edge=st.floats(16, 38))
def test_there_and_back(row: float, column: float, edge: float) -> None:
    images = smooth_images(2, 64)
    cuts = CutOuts(torch.tensor([[row, column], [32.0, 30.0]]), torch.tensor([edge, 20.0]))
    back, inside = cuts.back(cuts.of(images))
    assert back.shape == images.shape
    assert inside.shape == (2, 1, 64, 64)
    assert inside[0].sum().sqrt() == pytest.approx(edge, abs=1.5)
    assert (back - images)[inside].abs().max() < 0.02


def test_the_whole_image_is_cut_out_as_it_is() -> None:
    images = torch.rand(1, 2, 32, 32)
    cuts = CutOuts(torch.tensor([[16.0, 16.0]]), torch.tensor([32.0]))
    torch.testing.assert_close(cuts.of(images), images, atol=1e-5, rtol=0)
    assert cuts.back(images)[1].all()


def test_rows_are_rows() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[..., 4:8, 20:24] = 1
    cut = CutOuts.around(image[0], torch.tensor([8.0])).of(image)
    assert cut[0, 0, 10:22, 10:22].min() == 1
    assert cut[0, 0, 0, 0] == 0
    assert cut.mean() == pytest.approx(0.25, abs=0.02)


def test_boxes() -> None:
    mask = torch.zeros(10, 12)
    assert box_of(mask).tolist() == [0, 0, 10, 12]
    mask[3:5, 7] = 1
    assert box_of(mask).tolist() == [3, 7, 5, 8]
