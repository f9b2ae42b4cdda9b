"""Checks the orientation of a scan by its pictures, since headers with a wrong orientation are common.

Slices across each of the three axes are turned in all eight ways, and the body network estimates which of
them is upright and how high in the body it lies. Together these give a probability to each of the 48 possible
orientations. What pictures cannot tell, such as left and right of a thigh, is taken from the header.

```python
from latentseg.imaging import read
from latentseg.imaging.orientation import check_orientation

check = check_orientation(read("scan.nii.gz"))
check.stated, check.found, check.confidence  # "LPS", "LAS", 0.998
check.warning()  # one sentence, or None
```
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, caution
from latentseg.imaging.body_cells import Cells
from latentseg.imaging.body_network import CELL_MM, PICTURE, PLANES, BodyNetwork, Reading, embedded_network
from latentseg.imaging.contents import LARGEST_BODY_MM, is_picture, longest_mm

if TYPE_CHECKING:
    from latentseg.imaging.volume import Volume

AUTO = "auto"
"""Given as an orientation: read it from the picture."""

Array = NDArray[np.float32]

CODES = tuple(
    "".join(pair[bit] for pair, bit in zip(order, bits, strict=True))
    for order in permutations(("LR", "PA", "IS"))
    for bits in product((0, 1), repeat=3)
)
"""The 48 axis codes."""

DIRECTIONS = "LRPAIS"
"""Patient left, right, posterior, anterior, inferior, superior; opposite directions are neighbors."""

TURNS = tuple(
    rows + columns
    for rows, columns in product(DIRECTIONS, repeat=2)
    if DIRECTIONS.index(rows) // 2 != DIRECTIONS.index(columns) // 2
)
"""The 24 turns of a picture: where its rows, then its columns, run to."""

MEND = "Give --orientation auto, or {codes}"
"""How to mend it, on the command line; with the same words in Python."""

LAYERS = 10
"""Pictures across each axis."""

SHORTEST_MM = 50.0
"""A picture with a shorter side shows too little."""

SURE = 0.95
"""Probability from which the picture overrules the header."""

RIGHT, FLIPPED = 0.9, 0.08
"""Share of headers that are right, and of those that have the right axes in a wrong direction."""

TURN_WEIGHT, HEIGHT_WEIGHT = 0.3, 0.2
"""How much the evidence of one picture counts; neighbors say much the same, so less than 1, unless it is the
only one. Fitted on scans of patients that the network had not learned."""

BODY_MM = 360.0
"""Length of a body's longer side in an axial picture that carries no spacing."""

AIR_SHARE = 0.2
"""A layer with less than this share of the mean mass of all layers lies beside the body."""


@dataclass(frozen=True)
class OrientationCheck:
    """What the picture says of a scan's orientation.

    Attributes:
        stated: axis codes according to the header, or to who overruled it.
        probabilities: of each of the 48 axis codes, given the picture and how often headers are wrong.
        has_header: whether a header states it; of a picture without one it is assumed.
    """

    stated: str
    probabilities: dict[str, float]
    has_header: bool = True

    @property
    def found(self) -> str:
        """The most probable axis codes."""
        return max(self.probabilities, key=lambda codes: self.probabilities[codes])

    @property
    def confidence(self) -> float:
        """Probability of ``found``."""
        return self.probabilities[self.found]

    @property
    def is_wrong(self) -> bool:
        """Whether it is sure that the scan does not run as stated."""
        return self.probabilities[self.stated] < 1 - SURE

    @property
    def mended(self) -> str | None:
        """The axis codes to use instead of the stated ones, where that is certain, or those were assumed."""
        is_mended = self.is_wrong and (self.confidence >= SURE or not self.has_header)
        return self.found if is_mended else None

    def warning(self) -> str | None:
        """One sentence for people, where the stated orientation is wrong."""
        if not self.is_wrong:
            return None
        if not self.has_header:
            sure = percent(1 - self.probabilities[self.stated])
            return (
                f"pictures carry no orientation and are taken to run {self.stated}, but this one does not"
                f" look like that ({sure} sure): most likely {self.found}"
            )
        if self.mended:
            return (
                f"the header says that the axes run {self.stated}, the picture says {self.found}"
                f" ({percent(self.confidence)} sure): {what_is_wrong(self.stated, self.found)}"
            )
        first, second = sorted(self.probabilities, key=lambda codes: -self.probabilities[codes])[:2]
        return (
            f"the header says that the axes run {self.stated}, but the picture does not look like that"
            f" ({percent(1 - self.probabilities[self.stated])} sure); it may be {first} or {second}"
        )


def what_is_wrong(stated: str, found: str) -> str:
    """The difference between two axis codes in words."""
    pairs = {"LR": "left and right", "PA": "front and back", "IS": "head and feet"}
    axes = {
        pair: [next(n for n, c in enumerate(codes) if c in pair) for codes in (stated, found)]
        for pair in pairs
    }
    if any(before != after for before, after in axes.values()):
        return "its axes are in another order"
    swapped = [pairs[pair] for pair, (axis, _) in axes.items() if stated[axis] != found[axis]]
    return f"{' and '.join(swapped)} {'are' if swapped else 'nothing is'} swapped"


def percent(share: float) -> str:
    """A probability for people, never 100 %."""
    return f"{min(100 * share, 99.9):.3g} %"


def check_orientation(volume: Volume, *, network: BodyNetwork | None = None) -> OrientationCheck:
    """Compare a scan's stated orientation with what its picture shows.

    Args:
        volume: CT or MR, of any field of view.
        network: weights other than those that ship with the package.

    Raises:
        InputError: values that are no numbers.
    """
    stated = volume.orientation.upper() if volume.orientation else volume.axis_codes
    if longest_mm(volume) > LARGEST_BODY_MM:  # no body is that large: the header's unit is wrong
        return weighed(np.zeros(len(CODES), np.float32), stated)
    is_slice = volume.shape[2] == 1 and is_picture(volume)
    spacing_mm = spacing_of_slice(volume) if is_slice else volume.spacing_mm
    cells = Cells.of(volume.array, spacing_mm, modality=volume.modality)
    evidence = evidence_of(cells, network or embedded_network())
    if not is_slice:
        return weighed(evidence, stated)
    for n, codes in enumerate(CODES):  # nothing tells which side of a slice is seen, and across it none runs
        evidence[n] = evidence[n] if codes[2] == stated[2] else -np.inf
    return replace(weighed(evidence, stated), has_header=False)


def spacing_of_slice(volume: Volume) -> tuple[float, float, float]:
    """Spacing for a slice without any: that in which the body's longer side is `BODY_MM` long."""
    rough = CELL_MM * PICTURE / max(volume.shape)
    cells = Cells.of(volume.array, (rough, rough, CELL_MM), modality=volume.modality)
    inside = [np.flatnonzero(mass > AIR_SHARE / len(mass)) for mass in cells.mass[:2]]
    mm = rough * BODY_MM / (CELL_MM * max(layers[-1] - layers[0] + 1 for layers in inside))
    return mm, mm, CELL_MM


def weighed(evidence: Array, stated: str) -> OrientationCheck:
    """Weigh the evidence of :func:`evidence_of` against how seldom headers are wrong."""
    scores = evidence + np.log([prior_of(stated, codes) for codes in CODES])
    shares = np.exp(scores - scores.max())
    return OrientationCheck(stated, dict(zip(CODES, (shares / shares.sum()).tolist(), strict=True)))


def warn_of_orientation(volume: Volume, *, fix: str = MEND) -> None:
    """Warn where a scan surely does not run as its header says.

    Args:
        volume: the scan.
        fix: how to mend it, as an instruction; ``{codes}`` in it stands for the axis codes that were found.
    """
    try:
        check = check_orientation(volume)
    except InputError:  # whoever works on the image says what is wrong with it
        return
    warning = check.warning()
    if warning:
        caution(f"{volume.source or 'the image'}: {warning}. {fix.format(codes=check.found)}", stacklevel=3)


def with_found_orientation(volume: Volume) -> Volume:
    """The same voxels on the same grid, in the orientation that the picture shows.

    Warns of what was overruled, and of a header that is surely wrong where the picture does not say how.

    Raises:
        InputError: values that are no numbers.
    """
    check = check_orientation(volume)
    warning = check.warning()
    if warning is None:
        return volume
    if check.mended is None:
        caution(f"{volume.source or 'the image'}: {warning}. The header is followed", stacklevel=3)
        return volume
    caution(f"{volume.source or 'the image'}: {warning}. The picture is followed", stacklevel=3)
    return replace(volume, orientation=check.mended)


def prior_of(stated: str, codes: str) -> float:
    """How often a scan whose header states one orientation has another."""
    if codes == stated:
        return RIGHT
    same_axes = all(
        DIRECTIONS.index(a) // 2 == DIRECTIONS.index(b) // 2 for a, b in zip(stated, codes, strict=True)
    )
    return FLIPPED / 7 if same_axes else (1 - RIGHT - FLIPPED) / 40


def evidence_of(cells: Cells, network: BodyNetwork) -> Array:
    """Logarithm of how well each of the 48 axis codes explains the picture, `(48,)`, up to a constant."""
    total = np.zeros(len(CODES), np.float32)
    for axis in range(3):
        others = [cells.values.shape[other] for other in range(3) if other != axis]
        if min(others) * CELL_MM < SHORTEST_MM:
            continue
        layers = cells.layers(axis, LAYERS)
        readings = read_all_turns(cells.pictures(axis, layers), network)
        turns, along_mm = turn_scores(readings), np.asarray(layers, np.float32) * CELL_MM
        for n, codes in enumerate(CODES):
            rows, columns = (codes[other] for other in range(3) if other != axis)
            total[n] += max(TURN_WEIGHT, 1 / len(layers)) * turns[rows + columns]
            if codes[axis] in "IS":
                ratio = HEIGHT_WEIGHT * upward(along_mm, readings[RIGHTING[rows + columns][0]])
                total[n] -= np.logaddexp(0, -ratio if codes[axis] == "S" else ratio)
    return total


def read_all_turns(pictures: Array, network: BodyNetwork) -> list[Reading]:
    """Read pictures `(N, H, W)` after each of `OPERATIONS`."""
    return [network(np.ascontiguousarray(turned(pictures, *operation))) for operation in OPERATIONS]


def turn_scores(readings: list[Reading]) -> dict[str, float]:
    """Sum over pictures of the log-probability of each of the 24 turns."""
    scores = np.stack([reading.planes for reading in readings], 1)
    flat = scores.reshape(len(scores), -1)
    shifted = flat - flat.max(1, keepdims=True)
    logs = (shifted - np.log(np.exp(shifted).sum(1, keepdims=True))).sum(0).reshape(scores.shape[1:])
    return {turn: float(logs[operation, plane]) for turn, (operation, plane) in RIGHTING.items()}


def upward(along_mm: Array, reading: Reading) -> float:
    """Log-likelihood ratio of heights that rise along an axis against heights that fall."""
    weight = 1 / np.maximum(reading.spread_mm, 10.0) ** 2
    share = weight / weight.sum()
    along, height = along_mm - share @ along_mm, reading.height_mm - share @ reading.height_mm
    return float(2 * (weight * along * height).sum())


def turned(pictures: Array, transpose: bool, rows: bool, columns: bool) -> Array:
    """Transpose pictures `(N, H, W)`, then flip their rows and columns."""
    seen = pictures.transpose(0, 2, 1) if transpose else pictures
    seen = seen[:, ::-1] if rows else seen
    return seen[:, :, ::-1] if columns else seen


def turn_after(turn: str, transpose: bool, rows: bool, columns: bool) -> str:
    """How a picture is turned after it was transposed and then flipped along its rows and columns."""
    down, across = (turn[1], turn[0]) if transpose else (turn[0], turn[1])
    return (opposite(down) if rows else down) + (opposite(across) if columns else across)


def opposite(direction: str) -> str:
    """``"R"`` for ``"L"``."""
    return DIRECTIONS[DIRECTIONS.index(direction) ^ 1]


OPERATIONS = tuple(product((False, True), repeat=3))
"""The eight ways to turn a picture: whether to transpose it, to flip its rows, to flip its columns."""


def _righting() -> dict[str, tuple[int, int]]:
    found = {}
    for operation, plane in product(range(len(OPERATIONS)), range(len(PLANES))):
        turn = next(turn for turn in TURNS if turn_after(turn, *OPERATIONS[operation]) == PLANES[plane])
        found[turn] = operation, plane
    return found


RIGHTING = _righting()
"""For each of the 24 turns of a picture the operation that puts it right, and the plane that it is then."""
