"""The closer look at blocks: in place to a fraction of a voxel, only where something was found, of use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.imaging import Volume
from latentseg.imaging.network_input import NetworkInput, volume_block
from latentseg.methods.diffugts.attention_maps import resized
from latentseg.methods.tumor.closer_look import CloserOptions
from latentseg.methods.tumor.finer_blocks import EDGE, Finer, finer_mm, largest_block, look_closer_at_blocks
from latentseg.metrics.overlap import dice

WINDOW = (-1000.0, 1000.0)
SHAPE = (150, 140, 20)
SPACING_MM = (1.0, 1.0, 5.0)


def scan_of(array: NDArray[np.float32], spacing_mm: Sequence[float] = SPACING_MM) -> Volume:
    """A CT in RAS order."""
    return Volume(array.astype(np.float32), np.diag([*spacing_mm, 1.0]), modality="CT")


def ramp() -> Volume:
    """Grey values that rise along every axis."""
    axes = np.meshgrid(*(np.linspace(0, 1, n) for n in SHAPE), indexing="ij")
    return scan_of(600 * axes[0] - 400 * axes[1] + 300 * axes[2])


def first_look(scan: Volume) -> NetworkInput:
    return volume_block(scan, voxel_mm=2.0, multiple=32, window_hu=WINDOW)


def seen_again(
    seen: NetworkInput, inside: NDArray[np.bool_], answer: float | None = None, **options: float
) -> tuple[Tensor, Tensor, list[tuple[int, ...]]]:
    """Log-odds before and after by a network that says what it sees, or always the same; shapes of blocks."""
    first = torch.from_numpy(seen.images)[None, None]
    first = first if answer is None else torch.full_like(first, answer)
    shapes: list[tuple[int, ...]] = []

    def compare(block: Tensor, spacing_mm: tuple[float, float, float], away: Tensor | None) -> Tensor:
        shapes.append(tuple(block.shape[2:]))
        assert away is not None
        assert away.shape == block.shape
        return block if answer is None else torch.full_like(block, answer)

    finer = Finer(seen, CloserOptions(weight=options.pop("weight", 1.0), **options), 32)
    away = torch.zeros(1, 1, 4, 4, 4)
    found = look_closer_at_blocks(finer, first, inside, away=away, compare=compare, window_hu=WINDOW)
    return first, found, shapes


def piece(seen: NetworkInput) -> NDArray[np.bool_]:
    """A mask on half the grid of a first look, as the maps of a network are."""
    mask = np.zeros([n // 2 for n in seen.images.shape], bool)
    mask[3:7, 12:20, 14:18] = True
    return mask


def test_what_a_block_says_lands_where_the_block_was() -> None:
    seen = first_look(ramp())
    first, found, shapes = seen_again(seen, piece(seen))
    inner = (0, 0, slice(6, 14), slice(24, 40), slice(28, 36))
    torch.testing.assert_close(found[inner], first[inner], atol=2e-3, rtol=0)
    assert shapes == [(32, EDGE, EDGE)]  # five millimeters stay as they are, two become one


def test_a_network_that_says_the_same_of_everything_changes_nothing() -> None:
    seen = first_look(ramp())
    first, found, shapes = seen_again(seen, piece(seen), answer=-1.5, weight=0.5)
    assert shapes
    torch.testing.assert_close(found, first)


def test_nothing_changes_beyond_the_blocks() -> None:
    seen = first_look(scan_of(np.random.default_rng(0).normal(0, 200, SHAPE)))
    mask = piece(seen)
    first, found, _ = seen_again(seen, mask)
    (block,) = Finer(seen, CloserOptions(), 32).blocks(mask)
    outside = torch.ones_like(found, dtype=torch.bool)
    outside[(0, 0, *(span.inside for span in block))] = False
    assert found[outside].equal(first[outside])
    assert not torch.allclose(found, first)


def test_a_small_tumor_is_drawn_better() -> None:
    """A ball of 14 mm, by a network whose map has cells of four voxels: of 8 mm, then of 4."""
    grid = np.stack(np.meshgrid(*(np.arange(96) + 0.5,) * 3, indexing="ij"))
    truth = np.linalg.norm(grid - np.array((42, 40, 43))[:, None, None, None], axis=0) < 7
    scan = scan_of(np.where(truth, 400.0, -400.0), (1, 1, 1))
    seen = volume_block(scan, voxel_mm=2.0, multiple=32, window_hu=WINDOW)

    def network(images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool3d(images, 4)

    first = resized(network(torch.from_numpy(seen.images)[None, None]), seen.images.shape)
    found = look_closer_at_blocks(
        Finer(seen, CloserOptions(), 32),
        first,
        (first[0, 0] > -0.1).numpy(),
        away=None,
        compare=lambda block, _spacing, _away: network(block),
        window_hu=WINDOW,
    )
    before, after = (dice(seen.back(one[0, 0].numpy()) > 0, truth) for one in (first, found))
    assert after > before + 0.3


def test_a_scan_that_is_no_finer_is_not_looked_at_again() -> None:
    seen = first_look(scan_of(np.random.default_rng(0).normal(0, 200, (60, 60, 12)), (2.0, 2.5, 5.0)))
    first, found, shapes = seen_again(seen, seen.images > 0)
    assert found is first
    assert not shapes


def test_many_pieces_have_no_more_blocks_than_allowed() -> None:
    seen = first_look(ramp())
    mask = np.zeros(seen.images.shape, bool)
    mask[2, ::8, ::8] = mask[10:13, 30:36, 30:36] = True
    finer = Finer(seen, CloserOptions(blocks=3), 32)
    blocks = finer.blocks(mask)
    assert len(blocks) == 3
    assert [
        span.inside.start <= at < span.inside.stop for span, at in zip(blocks[0], (11, 33, 33), strict=True)
    ]


@pytest.mark.parametrize(
    ("native", "first", "steps"),
    [((5.0, 0.7, 0.7), (5.0, 1.5, 1.5), (5.0, 0.75, 0.75)), ((1, 1, 1), (1.5, 1.5, 1.5), (1, 1, 1))],
)
def test_voxels_are_no_finer_than_the_scans(
    native: tuple[float, ...], first: tuple[float, ...], steps: tuple[float, ...]
) -> None:
    assert finer_mm(native, first, 0.5) == steps
    assert largest_block((200.0, 90.0, 400.0), steps, 32)[2] == EDGE
