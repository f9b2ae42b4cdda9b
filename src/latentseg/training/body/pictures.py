"""What the body network learns from: pictures of packed scans, in random contrasts and crops."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from latentseg.imaging.body_cells import Cells
from latentseg.imaging.body_network import PICTURE, PLANES
from latentseg.imaging.orientation import OPERATIONS, turned
from latentseg.training.augment import Geometry, recolor, sampling_grid, warp
from latentseg.training.body.pack import BodyPack, PackedBody

KNOTS = np.array([-1, -0.96, -0.85, -0.6, -0.3, -0.1, 0.05, 0.2, 0.5, 1.0])
"""Where random contrasts bend: close together at fat and soft tissue in the abdominal window."""

MIRRORED = 1
"""Number of the operation that flips columns: it swaps the sides of axial and coronal pictures."""


class PictureOptions(BaseModel, extra="forbid", frozen=True):
    """How pictures are drawn.

    Attributes:
        scans: scans of which several axial slices are drawn, for their distances.
        slices: of each of them.
        others: coronal and sagittal pictures, of any scan.
        singles: axial pictures of any scan or slice.
        local: chance that the slices of a scan come from a short stretch of it.
        cropped: chance that a picture is cropped to a rectangle.
        curve: chance of another contrast.
        geometry: ranges of position, size and shape.
        without: parts of the names of cases that are left out, for a measurement on them.
    """

    scans: int = 5
    slices: int = 4
    others: int = 12
    singles: int = 10
    local: float = 0.4
    cropped: float = 0.25
    curve: float = 0.65
    geometry: Geometry = Geometry(degrees=12, zoom=(0.75, 1.35), stretch=0.1, shift=0.07, elastic=0.01)
    without: tuple[str, ...] = ()


class PictureBatch(NamedTuple):
    """Pictures and what is known of them.

    Attributes:
        pictures: `(N, 3, PICTURE, PICTURE)` in [-1, 1]: the right way round, mirrored, and in one of the six
            other turns; of stacks only the first.
        planes: `(N, 9)` target probabilities of the three planes in these three turns.
        group: `(N,)` number of the scan whose distances are known, -1 for none.
        along_mm: `(N,)` position along the scan.
        anchor_mm: `(N,)` known height, NaN for none.
    """

    pictures: Tensor
    planes: Tensor
    group: Tensor
    along_mm: Tensor
    anchor_mm: Tensor


class _Drawn(NamedTuple):
    picture: NDArray[np.float32]
    plane: int
    tells: str
    group: int = -1
    along_mm: float = 0.0
    anchor_mm: float = float("nan")


class Pictures:
    """Draws batches from a pack."""

    def __init__(self, packed: BodyPack, options: PictureOptions) -> None:
        self.options = options
        self.scans: list[PackedBody] = []
        self.cells: list[Cells] = []
        for scan, values in zip(packed.scans, packed.cells, strict=True):
            if not any(part in scan.case for part in options.without):
                self.scans.append(scan)
                self.cells.append(Cells.from_values(values.astype(np.float32) / 127.5 - 1))
        self.names = list(dict.fromkeys(scan.name for scan in self.scans))
        self.of = {name: [n for n, scan in enumerate(self.scans) if scan.name == name] for name in self.names}
        self.shares = {scan.name: scan.share for scan in self.scans}

    def draw(self, rng: np.random.Generator) -> PictureBatch:
        """Draw one batch."""
        options = self.options
        drawn: list[_Drawn] = []
        for group in range(options.scans):
            drawn += self._stack(rng, group, options.slices)
        for _ in range(options.others):
            scan = self._scan(rng, deep=True)
            axis = int(rng.integers(1, 3))
            drawn.append(self._single(rng, scan, axis))
        for _ in range(options.singles):
            drawn.append(self._single(rng, self._scan(rng, deep=False), 0))
        pictures = self._varied(rng, np.stack([one.picture for one in drawn]))
        turns = np.stack([_in_three_turns(rng, picture) for picture in pictures])
        return _batch(drawn, turns)

    def draw_stacks(self, rng: np.random.Generator, scans: int, slices: int) -> PictureBatch:
        """Draw axial slices of many scans, only the right way round: `(N, 1, PICTURE, PICTURE)`."""
        drawn = [one for group in range(scans) for one in self._stack(rng, group, slices)]
        pictures = self._varied(rng, np.stack([one.picture for one in drawn]))
        return _batch(drawn, pictures[:, None])

    def _scan(self, rng: np.random.Generator, *, deep: bool) -> int:
        """A scan by the shares of the sources; ``deep`` ones have extent along the body."""
        names = [name for name in self.names if not deep or len(self.cells[self.of[name][0]].values) > 6]
        shares = np.array([self.shares[name] for name in names])
        name = names[int(rng.choice(len(names), p=shares / shares.sum()))]
        return int(rng.choice(self.of[name]))

    def _stack(self, rng: np.random.Generator, group: int, slices: int) -> list[_Drawn]:
        n = self._scan(rng, deep=True)
        scan, cells = self.scans[n], self.cells[n]
        depth = len(cells.values)
        reach = depth if rng.random() > self.options.local else min(depth, int(rng.integers(6, 26)))
        first = int(rng.integers(0, depth - reach + 1))
        layers = first + rng.integers(0, reach, slices)
        drawn = []
        for layer in layers.tolist():
            along = (layer + 0.5) * scan.layer_mm
            anchor = float("nan")
            if scan.kidneys_mm is not None:
                anchor = along - scan.kidneys_mm
            elif scan.middle_mm is not None:
                anchor = scan.middle_mm + along - depth * scan.layer_mm / 2
            drawn.append(_Drawn(self._slab(rng, cells, 0, layer), 0, scan.tells, group, along, anchor))
        return drawn

    def _single(self, rng: np.random.Generator, n: int, axis: int) -> _Drawn:
        cells, scan = self.cells[n], self.scans[n]
        share = rng.uniform(0.03, 0.97)
        layer = int(np.searchsorted(np.cumsum(cells.mass[axis]), share).clip(0, len(cells.mass[axis]) - 1))
        middle = scan.middle_mm if axis == 0 and len(cells.values) == 1 else None
        known = float("nan") if middle is None else middle
        return _Drawn(self._slab(rng, cells, axis, layer), axis, scan.tells, anchor_mm=known)

    @staticmethod
    def _slab(rng: np.random.Generator, cells: Cells, axis: int, layer: int) -> NDArray[np.float32]:
        """One picture: a layer, or the mean of up to three; from the side, the head is up."""
        last = len(cells.mass[axis]) - 1
        layers = [min(layer + n, last) for n in range(int(rng.integers(1, 4)))]
        picture = np.asarray(cells.pictures(axis, layers).mean(0), np.float32)
        return picture if axis == 0 else picture[::-1]

    def _varied(self, rng: np.random.Generator, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        """Random geometry, contrast and crops; air stays -1."""
        images = torch.tensor(pictures)[:, None]
        images = warp(images, sampling_grid(rng, len(images), PICTURE, self.options.geometry))
        images = recolor(contrasted(rng, images, self.options.curve), rng, curve=0.0)
        out: NDArray[np.float32] = images[:, 0].numpy()
        for picture in out:
            if rng.random() < self.options.cropped:
                _crop(rng, picture)
        return out


def _batch(drawn: list[_Drawn], pictures: NDArray[np.float32]) -> PictureBatch:
    planes = np.stack([_target(one.plane, one.tells) for one in drawn])
    columns = torch.tensor([one[3:] for one in drawn], dtype=torch.float32)
    groups, along, anchors = columns.unbind(1)
    return PictureBatch(torch.tensor(pictures), torch.tensor(planes), groups.long(), along, anchors)


def _in_three_turns(rng: np.random.Generator, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """A picture the right way round, mirrored, and in a random one of the other six turns."""
    others = [n for n in range(1, len(OPERATIONS)) if n != MIRRORED]
    chosen = (0, MIRRORED, int(rng.choice(others)))
    return np.concatenate([turned(picture[None], *OPERATIONS[n]) for n in chosen])


def _target(plane: int, tells: str) -> NDArray[np.float32]:
    """Probabilities `(9,)` of the planes in `_in_three_turns`, the last of which stands for six."""
    target = np.zeros((3, len(PLANES)), np.float32)
    if tells == "none":
        target[:] = np.array([[1], [1], [6]]) / 24
    elif tells == "no sides" and PLANES[plane][1] == "L":
        target[:2, plane] = 0.5
    else:
        target[0, plane] = 1
    return target.reshape(-1)


def contrasted(rng: np.random.Generator, images: Tensor, chance: float) -> Tensor:
    """Give images `(N, 1, H, W)` in [-1, 1] other windows, inversions, and tissues in any order."""
    out = images.clone()
    for n in range(len(images)):
        if rng.random() < chance:
            table = torch.tensor(_curve(rng), dtype=torch.float32)
            index = ((images[n] + 1) * 127.5).round().clamp(0, 255).long()
            out[n] = table[index]
    return out


def _curve(rng: np.random.Generator) -> NDArray[np.float64]:
    """A random look-up table `(256,)`."""
    kind = rng.random()
    if kind < 0.35:  # another window
        low, high = sorted(rng.uniform(-1.4, 1.6, 2))
        values = (KNOTS - low) / max(high - low, 0.8) * 2 - 1
    elif kind < 0.5:  # rising
        values = np.concatenate([[-1.0], np.cumsum(rng.dirichlet(np.full(len(KNOTS) - 1, 1.5))) * 2 - 1])
    elif kind < 0.6:  # inverted
        values = -KNOTS
    else:  # tissues in any order, as between sequences of MR
        values = 0.3 * KNOTS + 0.7 * rng.uniform(-1, 1, len(KNOTS))
    if rng.random() < 0.85:
        values[0] = -1  # air is mostly dark
    table = np.interp(np.linspace(-1, 1, 256), KNOTS, values.clip(-1, 1))
    spread = max(float(np.ptp(table)), 0.2)
    return np.asarray((table - table.min()) / spread * 2 - 1).clip(-1, 1)


def _crop(rng: np.random.Generator, picture: NDArray[np.float32]) -> None:
    """Blacken all but a random rectangle of 18 cells or more, in place."""
    for axis in (0, 1):
        if rng.random() < 0.6:
            size = int(rng.integers(18, PICTURE - 8))
            first = int(rng.integers(4, PICTURE - size - 3))
            view = picture if axis == 0 else picture.T
            view[:first], view[first + size :] = -1, -1
